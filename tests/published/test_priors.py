"""Converted checkpoints compute what the original implementation computes with the same weights."""

import json

import pytest
import torch
import yaml

import published.original as original
from flashdiffusion.priors import IdentityAutoencoder, LatentPrior
from flashdiffusion.published import load_published
from flashdiffusion.published.first_stage import load_first_stage
from flashdiffusion.published.keymap import KeyMap
from flashdiffusion.published.unet import UNetShape, load_unet

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
TIMES = torch.tensor([1, 37, 500, 1000])


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _images(side: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def write_ldm(folder, first, unet, average, **model):
    folder.mkdir(exist_ok=True)
    torch.save({"state_dict": original.ldm_tensors(first, unet, average), "epoch": 3}, folder / "model.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump(original.ldm_config(first, unet, **model)))
    return folder / "model.ckpt"


# -- first stages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", [(), (2,), (1, 2)])
@pytest.mark.parametrize("shape", [{"blocks": 2}, {"widths": (32, 64), "z": 4, "embed": 3}])
def test_a_vq_first_stage_encodes_and_decodes_as_the_original(attention, shape):
    levels, blocks = len(shape.get("widths", "abc")), shape.get("blocks", 1)
    attention = tuple(i for i in attention if i < levels)
    t = original.make_first_stage(attention=attention, **shape)
    model = load_first_stage(KeyMap(t, "it"), 1.0, None)
    x = 2 * _images() - 1
    with torch.no_grad():
        z = model.encode(x).latents
        torch.testing.assert_close(z, original.encode(t, x, levels, blocks), **CLOSE)
        for latents in (z, 2 * _noise(*z.shape)):
            torch.testing.assert_close(
                model.decode(latents).sample, original.decode(t, latents, levels, blocks), **CLOSE
            )
            assert not torch.allclose(original.quantise(t, latents), latents, atol=0.05)


def test_a_kl_first_stage_encodes_and_decodes_as_the_original():
    t = original.make_first_stage(codebook=None, z=4, embed=4, attention=(2,))
    model = load_first_stage(KeyMap(t, "it"), 1.0, None)
    x = 2 * _images() - 1
    with torch.no_grad():
        mean = original.encode(t, x, 3, 1)[:, :4]
        torch.testing.assert_close(model.encode(x).latent_dist.mean, mean, **CLOSE)
        torch.testing.assert_close(model.decode(mean).sample, original.decode(t, mean, 3, 1), **CLOSE)


# -- denoisers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_order", [False, True])
@pytest.mark.parametrize("updown", [False, True])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize(
    ("multiples", "blocks", "attention"),
    [((1, 2), 2, (1,)), ((1, 1, 2), 1, (1,)), ((1, 2, 3), 1, (0, 1, 2)), ((2,), 1, ())],
)
def test_a_unet_predicts_as_the_original(multiples, blocks, attention, scale_shift, updown, new_order):
    if multiples[0] != 1:
        multiples = (1,)
    t = original.make_unet(
        multiples=multiples, blocks=blocks, attention=attention, scale_shift=scale_shift, updown=updown, out=6
    )
    shape = UNetShape.of(KeyMap(t, "it"))
    assert shape.blocks == blocks and shape.scale_shift == scale_shift
    assert shape.resblock_updown == (updown and len(multiples) > 1)
    model = load_unet(KeyMap(t, "it"), shape, 16, None, new_order)
    z = _noise(4, 3, 16, 16)
    with torch.no_grad():
        expected = original.unet(t, z, TIMES - 1, 16, new_order, updown)
        torch.testing.assert_close(model(z, TIMES - 1).sample, expected, **CLOSE)
        other = original.unet(t, z, TIMES - 1, 16, not new_order, updown)
        assert not torch.allclose(expected, other, atol=1e-2)  # the head order matters: the test can fail


@pytest.mark.parametrize("scale", [1e-2, 1e-3])
def test_norms_have_the_originals_epsilon(scale):
    """Features of almost no variance, where 1e-6 and 1e-5 differ."""
    t, first = original.make_unet(blocks=1), original.make_first_stage()
    for part in ("weight", "bias"):
        t[f"input_blocks.0.0.{part}"] *= scale
        for layer in ("encoder.conv_in", "post_quant_conv", "decoder.conv_in"):
            first[f"{layer}.{part}"] *= scale
    model = load_unet(KeyMap(t, "it"), UNetShape.of(KeyMap(t, "it")), 16, None)
    stage = load_first_stage(KeyMap(first, "it"), 1.0, None)
    z, x = _noise(4, 3, 16, 16), _images()
    with torch.no_grad():
        torch.testing.assert_close(model(z, TIMES - 1).sample, original.unet(t, z, TIMES - 1, 16), **CLOSE)
        raw = original.encode(first, x, 3, 1)
        torch.testing.assert_close(stage.encode(x).latents, raw, **CLOSE)
        torch.testing.assert_close(stage.decode(raw).sample, original.decode(first, raw, 3, 1), **CLOSE)


# -- whole checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale_factor", [1.0, 0.4])
@pytest.mark.parametrize("kept", [True, False], ids=["average", "no average"])
@pytest.mark.parametrize("codebook", [40, None], ids=["vq", "kl"])
def test_a_latent_diffusion_checkpoint_is_the_original_prior(tmp_path, codebook, kept, scale_factor):
    first = original.make_first_stage(codebook=codebook)
    live, average = original.make_unet(seed=1), original.make_unet(seed=2)
    path = write_ldm(tmp_path, first, live, average if kept else None, scale_factor=scale_factor)
    prior = load_published(path)
    weights = average if kept else live
    abar = original.make_schedule()["alphas_cumprod"]
    torch.testing.assert_close(prior.abar[1:], abar, atol=1e-6, rtol=1e-3)
    x = _images()
    with torch.no_grad():
        raw = original.encode(first, 2 * x - 1, 3, 1)[:, :3]
        torch.testing.assert_close(prior.encode(x), scale_factor * raw, **CLOSE)
        torch.testing.assert_close(
            prior.decode(scale_factor * raw), (original.decode(first, raw, 3, 1) + 1) / 2, **CLOSE
        )
        z = _noise(4, 3, 8, 8)
        eps = original.unet(weights, z, TIMES - 1, 16)
        a2 = abar[TIMES - 1].view(-1, 1, 1, 1)
        torch.testing.assert_close(a2.sqrt() * prior.denoise(z, TIMES), z - (1 - a2).sqrt() * eps, **CLOSE)
    assert prior.sample_size == 32


def test_the_folder_and_a_scale_factor_in_the_weights_are_taken(tmp_path):
    first, unet = original.make_first_stage(codebook=None), original.make_unet()
    path = write_ldm(tmp_path / "model", first, unet, None, scale_by_std=True)
    tensors = torch.load(path, weights_only=True)["state_dict"] | {"scale_factor": torch.tensor(0.3)}
    torch.save({"state_dict": tensors}, path)
    prior = load_published(tmp_path / "model")
    x = _images()
    with torch.no_grad():
        raw = original.encode(first, 2 * x - 1, 3, 1)[:, :3]
        torch.testing.assert_close(prior.encode(x), 0.3 * raw, **CLOSE)


@pytest.mark.parametrize("learned", [True, False])
def test_a_guided_diffusion_checkpoint_is_the_original_pixel_prior(tmp_path, learned):
    t = original.make_unet(
        multiples=(1, 1, 2), blocks=1, attention=(2,), base=64, scale_shift=True, updown=True, out=6 if learned else 3
    )
    torch.save(t, tmp_path / "ffhq.pt")
    (tmp_path / "ffhq.json").write_text(
        json.dumps(
            {
                "image_size": 16,
                "attention_resolutions": "4",
                "learn_sigma": learned,
                "num_heads": 4,
                "num_head_channels": 64,
                "noise_schedule": "linear",
                "num_channels": 64,
                "channel_mult": "1,1,2",
            }
        )
    )
    prior = load_published(tmp_path / "ffhq.pt")
    assert isinstance(prior.autoencoder, IdentityAutoencoder) and prior.sample_size == 16
    abar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(dim=0).float()
    torch.testing.assert_close(prior.abar[1:], abar, atol=1e-6, rtol=1e-3)
    z = _noise(4, 3, 16, 16)
    with torch.no_grad():
        eps = original.unet(t, z, TIMES - 1, 64, updown=True)[:, :3]
    a2 = abar[TIMES - 1].view(-1, 1, 1, 1)
    torch.testing.assert_close(a2.sqrt() * prior.denoise(z, TIMES), z - (1 - a2).sqrt() * eps, **CLOSE)
    prior.save_pretrained(tmp_path / "saved")
    again = LatentPrior.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.denoise(z, TIMES), prior.denoise(z, TIMES))


def test_a_guided_diffusion_checkpoint_needs_no_config(tmp_path):
    """Everything but the head width and the schedule is in the shapes; those are as in the FFHQ model of DPS."""
    t = original.make_unet(multiples=(1, 1, 2, 2, 4, 4), blocks=1, attention=(4,), scale_shift=True, updown=True, out=6)
    torch.save(t, tmp_path / "ffhq_10m.pt")
    prior = load_published(tmp_path / "ffhq_10m.pt")
    config = prior.denoiser.config
    assert prior.sample_size == 256 and config.attention_head_dim == 64
    assert config.down_block_types == ["ResnetDownsampleBlock2D"] * 4 + ["AttnDownBlock2D", "ResnetDownsampleBlock2D"]
    z = _noise(1, 3, 32, 32)
    i = torch.tensor([400])
    with torch.no_grad():
        eps = original.unet(t, z, i - 1, 64, updown=True)[:, :3]
        torch.testing.assert_close(prior.denoiser(z, i - 1).sample[:, :3], eps, **CLOSE)
