"""Pixel-space models: a denoiser of pixels and a regressor, no autoencoder."""

import pytest
import torch

from flashdiffusion import FlashPipeline, GaussianBlur
from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError
from flashdiffusion.methods import Settings
from flashdiffusion.priors import IdentityAutoencoder
from flashdiffusion.training.recipes import RECIPES
from flashdiffusion.training.run import train, with_space


@pytest.fixture(scope="module")
def pixel_model(tmp_path_factory, image_folder):
    out = tmp_path_factory.mktemp("pixel") / "model"
    return train("all", [image_folder], with_space(RECIPES["tiny"], "pixel"), out, max_minutes=60, max_steps=2)


def test_a_pixel_model_loads_and_serves_the_pixel_methods(pixel_model, image_folder):
    assert {p.name for p in pixel_model.iterdir() if p.is_dir()} == {"denoiser", "scheduler", "regressor"}
    pipeline = FlashPipeline.from_pretrained(pixel_model)
    assert isinstance(pipeline.prior.autoencoder, IdentityAutoencoder) and pipeline.sample_size == 32
    x = ImageDataset([image_folder], 32).batch(range(2))
    physics = GaussianBlur([0.5, 2.0])
    y = physics(x, torch.Generator().manual_seed(0))
    dps = pipeline(y, physics, solver="dps", start="noise", settings=Settings(steps=6))
    assert dps.nfe.tolist() == [6, 6] and dps.images.shape == x.shape
    ccdf = pipeline(y, physics, solver="dps", start="ccdf", settings=Settings(steps=20, start_step=200))
    assert ccdf.nfe.tolist() == [4, 4]
    swinir = pipeline(y, physics, start="regression")
    torch.testing.assert_close(swinir.images, pipeline.regressor(y).clamp(0, 1))
    assert swinir.nfe.tolist() == [0, 0] and bool((swinir.gflop > 0).all()) and swinir.severity is None
    # The estimate's own cost counts: 4 steps of the 6, and a regressor.
    step = dps.gflop[0] / 6
    assert float(ccdf.gflop[0] - 4 * step) == pytest.approx(float(swinir.gflop[0]), rel=0.01)


def test_a_pixel_model_has_no_severity(pixel_model):
    y = torch.rand(1, 3, 32, 32)
    with pytest.raises(InputError, match="needs a severity encoder"):
        FlashPipeline.from_pretrained(pixel_model)(y, GaussianBlur([1.0]), start="flash")


def test_stages_of_the_other_space_are_refused(tmp_path, image_folder, tiny_model):
    recipe = with_space(RECIPES["tiny"], "pixel")
    with pytest.raises(InputError, match="a pixel-space model has no severity"):
        train("severity", [image_folder], recipe, tmp_path / "new")
    with pytest.raises(InputError, match="holds an autoencoder"):
        train("denoiser", [image_folder], recipe, tiny_model)
    with pytest.raises(InputError, match="did you mean pixel"):
        with_space(recipe, "pixels")


def test_a_latent_model_keeps_its_regressor(tiny_model, tmp_path):
    pipeline = FlashPipeline.from_pretrained(tiny_model)
    pipeline.save_pretrained(tmp_path)
    again = FlashPipeline.from_pretrained(tmp_path)
    y = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.regressor(y), pipeline.regressor(y))
    ccdf = again(y, GaussianBlur([1.0, 2.0]), start="ccdf", settings=Settings(steps=10, start_step=300))
    assert ccdf.nfe.tolist() == [3, 3] and ccdf.severity is None
