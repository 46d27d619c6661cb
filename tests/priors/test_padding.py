"""Images of sizes that the networks cannot take: padded by reflection inside, cropped again."""

from pathlib import Path

import numpy as np
import pytest
import torch

from flashdiffusion import FlashPipeline, GaussianBlur, InputError, Operator, SuperResolution
from flashdiffusion.data import load_image
from flashdiffusion.methods import Settings
from flashdiffusion.metrics import psnr
from flashdiffusion.physics import BoxInpainting
from flashdiffusion.pipeline import Batch
from flashdiffusion.priors.padding import Padding, reflected
from flashdiffusion.severity import map_picture
from flashdiffusion.solvers import Problem

PORTRAIT = Path(__file__).parents[2] / "src" / "flashdiffusion" / "assets" / "portrait.png"
METHODS = ["flash", "flash(latent-dps)", "gml-dps", "psld", "resample", "ae", "swinir", "ccdf(latent-dps)"]


@pytest.mark.parametrize("size", [(5, 7), (9, 8), (23, 31)])
def test_reflection_is_numpy_s_however_far_it_goes(size):
    x = torch.arange(2 * 5 * 7, dtype=torch.float64).view(1, 2, 5, 7)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, size[0] - 5), (0, size[1] - 7)), mode="reflect")
    assert np.array_equal(reflected(x, size).numpy(), expected)
    assert reflected(torch.ones(1, 1, 1, 1), (3, 4)).tolist() == [[[[1.0] * 4] * 3]]


def test_cropping_undoes_padding_and_has_its_transpose():
    padding = Padding((5, 7), (8, 16))
    x, w = torch.rand(2, 3, 5, 7), torch.rand(2, 3, 8, 16)
    assert torch.equal(padding.crop(padding.pad(x)), x) and torch.equal(padding.crop(x), x)
    torch.testing.assert_close((padding.crop(w) * x).sum(), (w * padding.crop_transposed(x)).sum())
    assert padding.crop_map(torch.zeros(2, 4, 8)).shape == (2, 3, 4)  # places of 2 x 2 pixels


def test_the_physics_is_of_the_image_s_own_size(tiny_pipeline):
    """A of a padded problem is A(crop(x)); its adjoint and autograd's gradient are the transpose of that."""
    physics = GaussianBlur([1.0, 2.0])
    y = physics(torch.rand(2, 3, 29, 37))
    problem = tiny_pipeline.check(Problem(y, physics))
    assert problem.padding == Padding((29, 37), (32, 40))
    assert problem.image.shape == y.shape and problem.take(torch.tensor([1])).padding == problem.padding
    x, q = torch.rand(2, 3, 32, 40, requires_grad=True), torch.rand_like(y)
    measured = problem.measure(x)
    assert torch.equal(measured, physics.A(x[..., :29, :37]))
    (pulled,) = torch.autograd.grad(measured, x, q)
    torch.testing.assert_close(problem.adjoint(q), pulled)
    assert torch.equal(problem.residual(x), problem.residual(x[..., :29, :37]))


def _measured(count: int = 2, height: int = 29, width: int = 37):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 5, generator=generator)
    x = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    physics = GaussianBlur(torch.linspace(0.5, 1.5, count), 0.05)
    return physics(x, generator), physics


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_images_of_the_measurements_size_whatever_is_beside_them(tiny_pipeline, method):
    y, physics = _measured()
    given = Settings() if method in {"ae", "swinir", "flash"} else Settings(steps=2)
    seen = []
    options = {"method": method, "settings": given, "callback": lambda step, images, ids: seen.append(images.shape)}
    together = tiny_pipeline(y, physics, ids=["a", "b"], **options)
    assert together.images.shape == y.shape and bool(together.images.isfinite().all()) and not together.failed
    assert all(shape[1:] == y.shape[1:] for shape in seen)
    alone = tiny_pipeline(y[1:], physics.take(torch.tensor([1])), ids=["b"], **options)
    assert alone.nfe[0] == together.nfe[1]
    if method != "flash":  # on an untrained model proximal steps amplify rounding a thousandfold
        torch.testing.assert_close(alone.images[0], together.images[1], atol=2e-3, rtol=0)


@pytest.mark.filterwarnings("ignore:images of 16 x 17 pixels .* are far from")
def test_sizes_that_are_padded_to_the_same_share_a_stream_and_stay_apart(tiny_pipeline):
    sizes = [(29, 37), (32, 40), (31, 33), (16, 17)]
    batches = [Batch([f"{h}x{w}-{n}" for n in range(2)], *_measured(2, h, w)) for h, w in sizes]
    options = {"method": "flash(latent-dps)", "settings": Settings(steps=12)}
    streamed = {one.id: one.image for one in tiny_pipeline.stream(batches, max_in_flight=8, **options)}
    for (h, w), batch in zip(sizes, batches, strict=True):
        own = tiny_pipeline(batch.y, batch.physics, ids=batch.ids, **options)
        for name, image in zip(batch.ids, own.images, strict=True):
            assert streamed[name].shape == (3, h, w)
            torch.testing.assert_close(streamed[name], image, atol=2e-3, rtol=0)


def test_severity_maps_show_the_image_without_its_padding(tiny_pipeline, tmp_path):
    y, physics = _measured(1, 33, 37)
    restored = tiny_pipeline(y, physics)
    factor = tiny_pipeline.prior.autoencoder.factor
    assert restored.severity_maps.shape[1:] == (-(-33 // factor), -(-37 // factor))
    whole = tiny_pipeline.severity(y, physics).map[0, 0]
    assert whole.shape == (40 // factor, 40 // factor)
    picture = map_picture(whole[: -(-33 // factor), : -(-37 // factor)], (33, 37))
    assert picture.shape == (3, 33, 37)
    inner = map_picture(whole, (40, 40))[:, :32, :32]
    torch.testing.assert_close(picture[:, :32, :32], inner)
    restored.save(tmp_path / "images", maps=tmp_path / "maps")
    assert load_image(next((tmp_path / "maps").iterdir())).shape == (3, 33, 37)


def test_holes_measurements_of_another_size_and_foreign_physics(tiny_pipeline):
    x = torch.rand(1, 3, 30, 34)
    holes = BoxInpainting(4, 4, 12, 12, noise_std=0.02)
    small = SuperResolution(2, noise_std=0.02)
    own = Operator(lambda x: 0.5 * x, adjoint=lambda y: 0.5 * y, noise_std=0.02)
    for physics in (holes, small, own, lambda x: 0.5 * x):
        y = physics.A(x) if hasattr(physics, "A") else physics(x)
        assert tiny_pipeline(y, physics).images.shape == x.shape


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (7, 40)])
def test_what_would_be_little_but_padding_is_refused(tiny_pipeline, size):
    with pytest.raises(InputError, match=rf"of {size[0]} x {size[1]} pixels.*; expected at least 8 pixels a side"):
        tiny_pipeline(torch.full((1, 3, *size), 0.5), GaussianBlur(0.0))


def test_the_embedded_model_restores_a_padded_size_as_well_as_its_own():
    pipe, x = FlashPipeline.from_pretrained(), load_image(PORTRAIT, 128)[None]
    assert pipe.prior.padding((126, 123)) is not None and pipe.prior.padding((128, 128)) is None
    physics = GaussianBlur(1.5, noise_std=0.05)
    quality = []
    for part in (x, x[..., :126, :123]):
        y = physics(part, torch.Generator().manual_seed(0))
        quality.append(float(psnr(pipe(y, physics).images, part)))
    assert quality[1] > quality[0] - 0.5
