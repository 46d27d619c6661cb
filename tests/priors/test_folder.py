"""Model folders: what is written is what is read, and what does not fit is refused by name."""

import hashlib
import json
import os
import shutil
from copy import deepcopy
from logging.handlers import BufferingHandler

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DModel, VQModel
from diffusers.utils import logging
from safetensors.torch import load_file, save_file

from flashdiffusion import FlashPipeline
from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.priors import DiffusersAutoencoder, IdentityAutoencoder, LatentPrior, load_component
from flashdiffusion.priors.folder import read_json, resolve_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
SHAPE = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 3}


def _kl(**config: object) -> AutoencoderKL:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return AutoencoderKL(**(SHAPE | blocks | config)).eval()


def _vq(**config: object) -> VQModel:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return VQModel(**(SHAPE | blocks | {"num_vq_embeddings": 16} | config)).eval()


def _unet(channels: int = 3, attention: bool = False) -> UNet2DModel:
    deepest = ("AttnDownBlock2D", "AttnUpBlock2D") if attention else ("DownBlock2D", "UpBlock2D")
    return UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=[8, 16],
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=["DownBlock2D", deepest[0]],
        up_block_types=[deepest[1], "UpBlock2D"],
        add_attention=attention,
    ).eval()


def _scheduler(**config: object) -> DDPMScheduler:
    return DDPMScheduler(**(BETAS | config))


@pytest.fixture
def prior() -> LatentPrior:
    torch.manual_seed(0)
    autoencoder = _kl(latents_mean=[0.1, -0.2, 0.3], latents_std=[0.5, 1.0, 2.0], scaling_factor=0.7)
    return LatentPrior(DiffusersAutoencoder(autoencoder), _unet(), _scheduler())


@pytest.fixture
def folder(tmp_path, prior):
    prior.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _assert_same(a: LatentPrior, b: LatentPrior) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 16, 16, generator=generator)
    with torch.no_grad():
        z = a.encode(x)
        assert torch.equal(b.encode(x), z)
        assert torch.equal(b.decode(z), a.decode(z))
        i = torch.tensor([3, 900])
        assert torch.equal(b.denoise(z, i), a.denoise(z, i))
    assert torch.equal(a.abar, b.abar)


# -- round trips ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_round_trip_gives_identical_outputs(tmp_path, prior, prediction):
    prior = LatentPrior(prior.autoencoder, prior.denoiser, _scheduler(prediction_type=prediction))
    prior.save_pretrained(tmp_path)
    loaded = LatentPrior.from_pretrained(tmp_path)
    assert loaded.prediction == prediction
    assert not any(p.requires_grad for p in loaded.parameters())
    _assert_same(prior, loaded)


def test_without_an_autoencoder_the_prior_works_on_pixels(tmp_path):
    prior = LatentPrior(IdentityAutoencoder(), _unet(), _scheduler())
    prior.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["denoiser", "scheduler"]
    loaded = LatentPrior.from_pretrained(tmp_path)
    assert isinstance(loaded.autoencoder, IdentityAutoencoder)
    _assert_same(prior, loaded)


@pytest.mark.parametrize("names", [("vqvae", "unet"), ("vae", "unet"), ("autoencoder", "unet"), ("vqvae", "denoiser")])
def test_the_names_of_diffusers_pipelines_are_accepted(folder, prior, names):
    for ours, theirs in zip(("autoencoder", "denoiser"), names, strict=True):
        (folder / ours).rename(folder / theirs)
    _assert_same(prior, LatentPrior.from_pretrained(folder))


def test_a_pipeline_without_severity_encoder_or_index_loads(folder, prior):
    pipeline = FlashPipeline.from_pretrained(folder)
    assert pipeline.severity_encoder is None and pipeline.sample_size is None
    _assert_same(FlashPipeline(deepcopy(prior)).prior, pipeline.prior)  # weights in the same order


def test_the_whole_pipeline_survives_a_round_trip(tmp_path, tiny_pipeline):
    tiny_pipeline.save_pretrained(tmp_path / "copy")
    copy = FlashPipeline.from_pretrained(tmp_path / "copy")
    y = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert copy.sample_size == tiny_pipeline.sample_size == 32
    _assert_same(tiny_pipeline.prior, copy.prior)
    assert torch.equal(copy.severity(y).z_hat, tiny_pipeline.severity(y).z_hat)
    assert torch.equal(copy.severity(y).var, tiny_pipeline.severity(y).var)


# -- pickled weights, as in CompVis/ldm-celebahq-256 ----------------------------------------------------

_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def _pickle(component, old=False):
    """Weights as diffusers wrote them in 2022; `old`: under the names that attention had then."""
    weights = component / WEIGHTS
    tensors = load_file(weights)
    if old:
        for new, name in _OLD.items():
            tensors = {k.replace(f".{new}.", f".{name}."): v for k, v in tensors.items()}
        assert any(".proj_attn." in k for k in tensors)
    weights.unlink()
    torch.save(tensors, component / "diffusion_pytorch_model.bin")
    return component / "diffusion_pytorch_model.bin"


@pytest.fixture
def ldm_folder(tmp_path):
    """The layout of diffusers' LDMPipeline: pickled weights, and a VQ model that does not say its scaling factor."""
    torch.manual_seed(0)
    model, unet = _vq(), _unet(attention=True)
    folder = tmp_path / "ldm"
    model.save_pretrained(folder / "vqvae")
    unet.save_pretrained(folder / "unet")
    DDIMScheduler(**BETAS, clip_sample=False).save_pretrained(folder / "scheduler")
    path = folder / "vqvae" / "config.json"
    config = json.loads(path.read_text())
    del config["scaling_factor"]
    path.write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LDMPipeline"}))
    return folder, model, unet


@pytest.mark.parametrize("old", [False, True], ids=["new names", "old names"])
def test_pickled_weights_are_read_as_tensors(ldm_folder, old):
    folder, model, unet = ldm_folder
    for component in ("vqvae", "unet"):
        _pickle(folder / component, old)
    prior = LatentPrior.from_pretrained(folder)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    i = torch.tensor([3, 900])
    with torch.no_grad():
        raw = model.quant_conv(model.encoder(2 * x - 1))
        torch.testing.assert_close(prior.encode(x), raw)  # not scaled by the 0.18215 that diffusers would fill in
        torch.testing.assert_close(prior.decode(raw), (model.decode(raw).sample + 1) / 2)
        torch.testing.assert_close(prior.denoiser(raw, i).sample, unet(raw, i).sample)
    assert FlashPipeline.from_pretrained(folder).sample_size == 16


def test_files_of_a_folder_can_be_pinned(ldm_folder):
    folder, _, _ = ldm_folder
    name = f"unet/{WEIGHTS}"
    right = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    LatentPrior.from_pretrained(folder, sha256={name: right})
    with pytest.raises(CheckpointError, match=f"has sha256 {right}; expected {'0' * 64}"):
        LatentPrior.from_pretrained(folder, sha256={name: "0" * 64})
    with pytest.raises(CheckpointError, match="cannot read"):
        LatentPrior.from_pretrained(folder, sha256={"unet/absent.bin": right})


def test_of_the_hub_pickled_weights_are_fetched_only_where_there_are_no_others(ldm_folder, monkeypatch):
    folder, _, _ = ldm_folder
    _pickle(folder / "unet")
    (folder / "scheduler" / "config.json").unlink(missing_ok=True)
    asked = []

    def snapshot(source, revision, allow_patterns):
        asked.append((source, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr("flashdiffusion.priors.folder.snapshot_download", snapshot)
    LatentPrior.from_pretrained("CompVis/ldm-celebahq-256", "0123456789abcdef0123456789abcdef01234567")
    assert [(source, revision) for source, revision, _ in asked] == [
        ("CompVis/ldm-celebahq-256", "0123456789abcdef0123456789abcdef01234567")
    ] * 2
    assert not any(".bin" in pattern for pattern in asked[0][2])
    assert asked[1][2] == ["unet/diffusion_pytorch_model.bin"]


# -- the autoencoders' convention -----------------------------------------------------------------------


def test_scaled_latents_are_the_standardised_posterior_mean(prior):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        raw = prior.autoencoder.model.encode(2 * x - 1).latent_dist.mean
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.1, -0.2, 0.3], [0.5, 1.0, 2.0]))
    torch.testing.assert_close(prior.encode(x), 0.7 * (raw - mean) / std)
    with torch.no_grad():
        decoded = prior.autoencoder.model.decode(raw).sample
    torch.testing.assert_close(prior.decode(prior.encode(x)), (decoded + 1) / 2)


def test_a_vq_prior_encodes_before_quantisation_and_decodes_through_it(tmp_path):
    torch.manual_seed(0)
    model = _vq(scaling_factor=0.5)
    prior = LatentPrior(DiffusersAutoencoder(model), _unet(), _scheduler())
    prior.save_pretrained(tmp_path)
    loaded = LatentPrior.from_pretrained(tmp_path)
    _assert_same(prior, loaded)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        raw = model.quant_conv(model.encoder(2 * x - 1))
        quantised, _, _ = model.quantize(raw)
        torch.testing.assert_close(loaded.encode(x), 0.5 * raw)
        assert not torch.allclose(raw, quantised)
        expected = model.decoder(model.post_quant_conv(quantised))
        torch.testing.assert_close(loaded.decode(loaded.encode(x)), (expected + 1) / 2)


def test_decoding_a_vq_latent_passes_a_gradient(tmp_path):
    """Latent-DPS differentiates through the decoder, hence through the quantiser (straight through)."""
    torch.manual_seed(0)
    autoencoder = DiffusersAutoencoder(_vq())
    z = torch.randn(1, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(autoencoder.decode(z).square().sum(), z)
    assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0


# -- folders that do not fit ----------------------------------------------------------------------------


class _Touch:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.open, (str(self.path), os.O_CREAT)


def test_code_in_pickled_weights_is_not_run(folder, tmp_path):
    weights = _pickle(folder / "denoiser")
    trap = tmp_path / "trap"
    torch.save(torch.load(weights, weights_only=True) | {"conv_in.bias": _Touch(trap)}, weights)
    with pytest.raises(CheckpointError, match=r"holds code \(posix\.open\), which is not executed"):
        LatentPrior.from_pretrained(folder)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("conv_in.bias"), "has nothing for conv_in.bias"),
        (lambda t: t.update(surplus=torch.zeros(2)), "no place for surplus"),
        (
            lambda t: t.update({"conv_in.bias": torch.zeros(3)}),
            r"conv_in.bias has shape \(3,\) and torch.float32; expected \(8,\)",
        ),
    ],
)
def test_pickled_weights_that_do_not_fit_are_named(folder, change, reason):
    weights = _pickle(folder / "denoiser")
    tensors = torch.load(weights, weights_only=True)
    change(tensors)
    torch.save(tensors, weights)
    with pytest.raises(CheckpointError, match=reason):
        LatentPrior.from_pretrained(folder)


@pytest.mark.parametrize("component", ["autoencoder", "denoiser"])
def test_a_missing_weight_is_named(folder, component):
    path = folder / component / WEIGHTS
    tensors = load_file(path)
    key = next(k for k in tensors if k.endswith("conv_in.weight"))
    del tensors[key]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{component} has nothing for {key}"):
        LatentPrior.from_pretrained(folder)


def test_a_weight_too_many_is_named(folder):
    path = folder / "denoiser" / WEIGHTS
    save_file(load_file(path) | {"surplus.weight": torch.zeros(2)}, path, {"format": "pt"})
    handler = BufferingHandler(100)
    logging.add_handler(handler)
    try:
        with pytest.raises(CheckpointError, match=r"denoiser: no place for surplus\.weight"):
            LatentPrior.from_pretrained(folder)
    finally:
        logging.remove_handler(handler)
    assert handler.buffer == []  # diffusers' own warning would be a second message


def test_a_weight_of_another_shape_is_refused(folder):
    path = folder / "denoiser" / WEIGHTS
    tensors = load_file(path)
    save_file(tensors | {"conv_in.weight": torch.zeros(2, 3, 3, 3)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="denoiser"):
        LatentPrior.from_pretrained(folder)


def test_truncated_weights_are_refused(folder):
    path = folder / "autoencoder" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"autoencoder.* cannot be read as safetensors: .+"):
        LatentPrior.from_pretrained(folder)


def test_a_denoiser_of_other_channels_than_the_latents_is_refused(prior):
    with pytest.raises(InputError, match=r"denoiser of 4 channels .*autoencoder of 3"):
        LatentPrior(prior.autoencoder, _unet(4), _scheduler())


def test_a_severity_encoder_of_other_channels_is_refused(folder, tiny_model):
    shutil.copytree(tiny_model / "severity_encoder", folder / "severity_encoder")
    with pytest.raises(
        CheckpointError, match=r"encoder of 8 latent channels at 1/4 of the image.s side; expected 3 at 1/2"
    ):
        FlashPipeline.from_pretrained(folder)


def test_an_unknown_prediction_type_is_refused(prior):
    scheduler = _scheduler()
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(InputError, match="'flow'; expected one of epsilon, v_prediction, sample"):
        LatentPrior(prior.autoencoder, prior.denoiser, scheduler)


@pytest.mark.parametrize("name", ["denoiser", "scheduler"])
def test_a_missing_component_is_named(folder, name):
    shutil.rmtree(folder / name)
    with pytest.raises(CheckpointError, match=name):
        LatentPrior.from_pretrained(folder)


def test_another_class_is_named(folder):
    path = folder / "denoiser" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(
        CheckpointError,
        match="holds a 'UNet2DConditionModel', which is given text or a class at each step; expected UNet2DModel",
    ):
        load_component(UNet2DModel, folder / "denoiser")


def test_an_autoencoder_of_another_class_is_named(folder):
    shutil.copy(folder / "scheduler" / "scheduler_config.json", folder / "autoencoder" / "config.json")
    with pytest.raises(CheckpointError, match=r"holds a .DDPMScheduler.; expected AutoencoderKL or VQModel"):
        LatentPrior.from_pretrained(folder)


@pytest.mark.parametrize(("text", "reason"), [("{", "is not JSON"), ("[1]", "holds a list; expected a JSON object")])
def test_json_that_is_none_is_refused(tmp_path, text, reason):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        read_json(tmp_path / "config.json")


# -- finding the folder ---------------------------------------------------------------------------------


def test_a_folder_is_itself(folder):
    assert resolve_folder(folder) == folder


def test_a_hub_id_needs_no_network_to_fail():
    with pytest.raises(CheckpointError, match="no folder nobody/nothing here, and downloading"):
        resolve_folder("nobody/nothing")


@pytest.mark.parametrize("source", ["./a/b", "/a/b", "a/b/c", "~/b"])
def test_what_looks_like_a_path_is_not_looked_for_on_the_hub(source):
    with pytest.raises(CheckpointError, match=f"no model folder {source}; expected a folder"):
        resolve_folder(source)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(CheckpointError, match="is a file; expected a model folder"):
        resolve_folder(tmp_path / "model.safetensors")


def test_a_name_that_is_no_embedded_model_is_told_which_are():
    with pytest.raises(CheckpointError, match=r"no model 'faces-12'; expected faces-128, .* or a hub id"):
        FlashPipeline.from_pretrained("faces-12")
