import io

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiffusion.errors import InputError
from flashdiffusion.physics import JPEG
from flashdiffusion.physics.jpeg import ROUNDING_STD, SOFTNESS, _round, _round_softly


def _image(width=64, height=48):
    """Waves of colour, an edge, and noise, so that all frequencies are there."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width][..., None] / 40
    pixels = 128 + 60 * np.sin(generator.uniform(1, 4, 3) * x + generator.uniform(1, 4, 3) * y)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (200, 40, 90)
    pixels = pixels + generator.normal(0, 8, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def _tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double() / 255


def _through_pillow(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as read:
        return _tensor(read.convert("RGB"))


@pytest.mark.parametrize("size", [(64, 48), (50, 37)])
@pytest.mark.parametrize("quality", [5, 20, 50, 75, 95])
def test_equals_pillow_within_two_grey_levels(quality, size):
    image = _image(*size)
    difference = 255 * (JPEG([quality]).A(_tensor(image)) - _through_pillow(image, quality))
    assert float(difference.abs().mean()) < 2
    assert abs(float(difference.mean())) < 0.5
    unlike = 255 * (JPEG([quality]).A(_tensor(image)) - _through_pillow(image, {95: 50}.get(quality, 95)))
    assert float(unlike.abs().mean()) > 1.5 * float(difference.abs().mean())


def test_a_constant_image_keeps_its_colour():
    x = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert float((JPEG([90]).A(x) - x).abs().max()) < 3 / 255


def test_worse_quality_is_further_away():
    x = _tensor(_image()).expand(4, -1, -1, -1)
    errors = (JPEG([5, 20, 50, 95]).A(x) - x).square().mean(dim=(1, 2, 3)).tolist()
    assert errors == sorted(errors, reverse=True)


def test_the_derivative_of_rounding_is_that_of_its_mean_over_small_errors():
    x = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(_round(x).sum(), x)
    errors = torch.linspace(-6, 6, 48001, dtype=torch.float64) * SOFTNESS
    weights = torch.exp(-(errors / SOFTNESS).square() / 2)

    def mean(at):
        return ((at[:, None] + errors).round() * weights).sum(dim=1) / weights.sum()

    at = x.detach()[::10] + 0.0123
    step = 0.005
    expected = (mean(at + step) - mean(at - step)) / (2 * step)
    (own,) = torch.autograd.grad(_round(y := at.clone().requires_grad_()).sum(), y)
    torch.testing.assert_close(own, expected, atol=0.02, rtol=0.02)
    assert float(slope.mean()) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(_round(x), x.round())


def test_softened_rounding_is_the_mean_and_does_not_jump():
    x = torch.linspace(-3, 3, 6001, dtype=torch.float64, requires_grad=True)
    soft = _round_softly(x)
    (slope,) = torch.autograd.grad(soft.sum(), x)
    soft = soft.detach()
    assert torch.equal(slope, torch.ones_like(x))
    drawn = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * SOFTNESS
    for place in (600, 1234, 3000, 4567):
        mean = (x.detach()[place] + drawn).round().mean()
        assert float(soft[place]) == pytest.approx(float(mean), abs=0.01)
    assert float(soft.diff().abs().max()) < 2.01 * 0.001  # where a step turns, twice as fast as x
    whole = torch.arange(-2, 3, dtype=torch.float64)
    torch.testing.assert_close(_round_softly(whole), whole, atol=0.02, rtol=0)


def test_what_a_fit_is_shown_differs_little_where_the_image_differs_little():
    x = _tensor(_image())
    physics = JPEG([80])
    moved = x + 1e-4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    jumps = [float((made(moved) - made(x)).abs().max()) for made in (physics.A, physics.softened)]
    assert jumps[1] < 5e-4 < 3e-3 < jumps[0]
    assert float((physics.softened(x) - physics.A(x)).square().mean().sqrt()) < 0.04
    inner = 0.5 + 0.2 * (x - 0.5)
    at = inner.clone().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    (gradient,) = torch.autograd.grad((physics.softened(at) * weights).sum(), at)
    (other,) = torch.autograd.grad((JPEG([90]).softened(at) * weights).sum(), at)
    torch.testing.assert_close(gradient, other)  # of an A that does not round


def test_rounding_counts_as_noise():
    """Residuals of noise and of rounding have the variance of the noise again; where rounding is small, they stay."""
    variance = torch.full((1,), 0.02**2, dtype=torch.float64)
    noise = 0.02 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float((JPEG([100]).discounted(noise, variance) - noise).abs().max()) < 1e-3 * 0.02
    coarse = JPEG([5])
    shrunk = coarse.discounted(noise, variance)
    wave = torch.cos(torch.pi * (2 * torch.arange(64) + 1) * 7 / 16).double()  # the finest of a block
    fine = (wave[:, None] * wave).expand(1, 3, -1, -1)
    step = 255.0  # of its coefficient at this quality
    of_luma = float(variance) * (0.299**2 + 0.587**2 + 0.114**2)
    left = (of_luma / (of_luma + (ROUNDING_STD * step / 255) ** 2)) ** 0.5
    torch.testing.assert_close(coarse.discounted(fine, variance), left * fine, rtol=1e-5, atol=1e-6)
    assert float(shrunk.square().mean()) < float(noise.square().mean())
    both = coarse.discounted(2 * fine - 3 * noise, variance)
    torch.testing.assert_close(both, 2 * left * fine - 3 * shrunk, rtol=1e-5, atol=1e-6)


def test_the_gradient_does_not_see_what_compression_takes_away():
    """Fine detail that is rounded to 0 counts for little; at the quality that keeps it, it counts."""
    x = 0.5 + 0.004 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pulls = []
    for quality in (10, 99):
        at = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((JPEG([quality]).A(at) * (x - 0.5)).sum(), at)
        pulls.append(float((gradient * (x - 0.5)).sum() / (x - 0.5).square().sum()))
    assert pulls[0] < 0.2 < 0.35 < pulls[1]


@pytest.mark.parametrize("bad", [[0], [101], [float("nan")], [[50]]])
def test_refuses_quality_out_of_range(bad):
    with pytest.raises(InputError, match="jpeg quality"):
        JPEG(bad)


def test_refuses_images_that_are_not_rgb():
    with pytest.raises(InputError, match="3 \\(RGB\\)"):
        JPEG([50]).A(torch.zeros(1, 1, 16, 16))
