"""The distilled decoder: called like D0, differentiable, any precision, and refused beside another autoencoder."""

import json

import pytest
import torch

from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.metrics import count_gflop
from flashdiffusion.priors import (
    DistilledDecoder,
    load_autoencoder,
    load_component,
    load_distilled_decoder,
    save_component,
)
from flashdiffusion.priors.folder import INDEX, read_json, write_index
from flashdiffusion.training.recipes import RECIPES


@pytest.fixture
def model() -> DistilledDecoder:
    torch.manual_seed(0)
    return DistilledDecoder(4, 2, width=12, layers=2).eval()


@pytest.fixture
def autoencoder(tiny_model):
    """Of 8 latent channels and factor 4."""
    return load_autoencoder(tiny_model / "autoencoder")


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(8, 8), (5, 12), (1, 1)])
def test_each_place_of_the_latent_becomes_a_square_of_pixels(factor, size):
    x = DistilledDecoder(4, factor, width=8, layers=1)(latents(2, 4, *size))
    assert x.shape == (2, 3, factor * size[0], factor * size[1])


def test_it_gives_images_of_the_shape_and_scale_that_d0_gives(autoencoder):
    z = latents(2, 8, 8, 8)
    distilled = DistilledDecoder(autoencoder.channels, autoencoder.factor)
    assert distilled(z).shape == autoencoder.decode(z).shape
    torch.nn.init.zeros_(distilled.tail.weight)
    torch.nn.init.zeros_(distilled.tail.bias)
    assert torch.equal(
        distilled(z), torch.full((2, 3, 32, 32), 0.5)
    )  # 0 of the networks' range is the middle of [0, 1]
    torch.nn.init.constant_(distilled.tail.bias, 3.0)
    assert torch.equal(distilled(z), torch.full((2, 3, 32, 32), 2.0))  # not clipped


def test_an_image_does_not_depend_on_its_batch(model):
    z = latents(4, 4, 6, 6)
    alone = torch.cat([model(row[None]) for row in z])
    torch.testing.assert_close(model(z), alone, atol=1e-5, rtol=0)


def test_its_gradient_is_the_derivative(model):
    model = model.double()
    z = latents(1, 4, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(model, z)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_result_has_the_type_of_the_latents(model, dtype):
    assert model(latents(1, 4, 6, 6).to(dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_give_nearly_the_same_image_and_gradient(model, dtype):
    z = latents(2, 4, 6, 6).requires_grad_()
    expected = model(z)
    (slope,) = torch.autograd.grad(expected.square().sum(), z)
    x = model.to(dtype)(z)
    (half,) = torch.autograd.grad(x.square().sum(), z)
    assert x.dtype == half.dtype == torch.float32
    torch.testing.assert_close(x, expected, atol=0.02, rtol=0)
    assert float((half - slope).norm()) < 0.05 * float(slope.norm())


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    save_component(model, tmp_path / "distilled_decoder")
    assert {p.suffix for p in (tmp_path / "distilled_decoder").iterdir()} == {".json", ".safetensors"}
    z = latents(2, 4, 6, 5)
    assert torch.equal(load_component(DistilledDecoder, tmp_path / "distilled_decoder")(z), model(z))
    assert torch.equal(DistilledDecoder.from_pretrained(tmp_path / "distilled_decoder").eval()(z), model(z))
    write_index(tmp_path, None)
    assert read_json(tmp_path / INDEX)["distilled_decoder"] == ["flashdiffusion", "DistilledDecoder"]


def test_loaded_for_its_autoencoder_it_is_frozen(autoencoder, tmp_path):
    save_component(DistilledDecoder(8, 4, width=8), tmp_path)
    distilled = load_distilled_decoder(tmp_path, autoencoder)
    assert not distilled.training and not any(p.requires_grad for p in distilled.parameters())


def test_one_that_fails_on_a_photograph_is_refused(autoencoder, tmp_path):
    distilled = DistilledDecoder(8, 4, width=8)
    torch.nn.init.constant_(distilled.tail.weight, 3e38)
    save_component(distilled, tmp_path)
    with pytest.raises(CheckpointError, match=r"its distilled decoder gives .* for a photograph; expected .*, finite"):
        load_distilled_decoder(tmp_path, autoencoder)


@pytest.mark.parametrize(("channels", "factor"), [(4, 4), (8, 2)])
def test_beside_another_autoencoder_it_is_refused(autoencoder, tmp_path, channels, factor):
    save_component(DistilledDecoder(channels, factor, width=8), tmp_path)
    reason = f"distilled decoder of {channels} latent channels and factor {factor} beside an autoencoder of 8 and 4"
    with pytest.raises(CheckpointError, match=reason):
        load_distilled_decoder(tmp_path, autoencoder)


def test_a_folder_of_another_config_or_class_is_refused(model, autoencoder, tiny_model, tmp_path):
    with pytest.raises(CheckpointError, match="holds a 'AutoencoderKL'; expected DistilledDecoder"):
        load_distilled_decoder(tiny_model / "autoencoder", autoencoder)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_distilled_decoder(tmp_path, autoencoder)
    save_component(model, tmp_path)
    config = read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps(config | {"width": 16}))
    with pytest.raises(CheckpointError, match=r"has shape \(12,.* expected \(16,"):
        load_component(DistilledDecoder, tmp_path)


@pytest.mark.parametrize("change", [{"latent_channels": 0}, {"factor": 0}, {"width": 0}, {"layers": -1}])
def test_a_layout_that_cannot_be_is_refused(change):
    with pytest.raises(InputError, match="expected at least 1, of layers at least 0"):
        DistilledDecoder(**({"latent_channels": 4, "factor": 2} | change))


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (4, 6, 6)])
def test_latents_of_other_channels_are_refused(model, shape):
    with pytest.raises(InputError, match=r"latents of shape .*; this distilled decoder takes \(B, 4, h, w\)"):
        model(latents(*shape))


def test_the_recipes_one_takes_an_eighth_of_d0_s_arithmetic_at_most():
    from diffusers import AutoencoderKL

    recipe = RECIPES["faces-128"]
    full = AutoencoderKL(**recipe.autoencoder.model)
    distilled = DistilledDecoder(8, 4, **recipe.distilled_decoder.model)
    z = latents(1, 8, 32, 32)
    assert count_gflop(lambda: distilled(z)) <= count_gflop(lambda: full.decode(z)) / 8
