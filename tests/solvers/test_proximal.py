"""Proximal steps against closed forms of the toy prior."""

import warnings
from dataclasses import replace

import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import Denoising, GaussianBlur
from flashdiffusion.solvers import Problem, Proximal
from flashdiffusion.solvers.consistency import Consistency, gauss_newton
from toy import ToyPrior, run, started

PRIOR = ToyPrior()
NOISE = torch.tensor([0.05, 0.1, 0.3])


def _truth(count: int = 3, size: int = 16):
    generator = torch.Generator().manual_seed(0)
    z = PRIOR.sample(count, size, generator)
    return z, generator


def _variances(like):
    """Another one at each place."""
    return torch.linspace(0.01, 0.5, like.shape[2] * like.shape[3], dtype=like.dtype).view(1, 1, *like.shape[2:])


def test_it_is_the_posterior_mean_of_a_gaussian():
    """For y = D(z) + n with an orthonormal D, entry by entry."""
    z, generator = _truth()
    physics = Denoising(NOISE)
    y = physics(PRIOR.decode(z), generator)
    estimate = z + 0.3 * torch.randn(z.shape, generator=generator, dtype=z.dtype)
    variance, error = _variances(z), 0.02
    found = gauss_newton(
        estimate, variance.expand(3, 1, 8, 8), Problem(y, physics), PRIOR.decode, error=error, iterations=40
    )
    of_y = 1 / (4 * (NOISE.double() ** 2 + error**2)).view(-1, 1, 1, 1)  # y on the [-1, 1] scale of latents
    expected = (estimate / variance + of_y * PRIOR.encode(y)) / (1 / variance + of_y)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_stand_in_gives_the_derivative_and_the_decoder_the_value():
    """A stand-in with the right slope and a wrong value changes nothing."""
    z, generator = _truth()
    physics = GaussianBlur(torch.tensor([0.5, 1.0, 2.0]), 0.05)
    y = physics(PRIOR.decode(z), generator)
    problem, variance = Problem(y, physics), _variances(z).expand(3, 1, 8, 8)
    true = Consistency(decoder_error=0.01)
    shifted = Consistency(decoder_error=0.01, decoder=lambda z: PRIOR.decode(z) + 0.3)
    torch.testing.assert_close(
        true.latents(0 * z, variance, problem, PRIOR), shifted.latents(0 * z, variance, problem, PRIOR)
    )


def test_pixels_take_from_y_what_the_decoder_cannot_show():
    """argmin ‖x - y‖² / σ² + ‖x - D‖² / c."""
    z, generator = _truth()
    physics = Denoising(0.05)
    x = PRIOR.decode(z)
    y, shown, c = physics(x, generator), x + 0.1, 0.04
    found = Consistency(decoder_error=c).pixels(shown, Problem(y, physics))
    torch.testing.assert_close(found, (shown / c**2 + y / 0.05**2) / (1 / c**2 + 1 / 0.05**2), atol=1e-5, rtol=1e-4)
    assert torch.equal(Consistency(decoder_error=0.0).pixels(shown, Problem(y, physics)), shown)


def _solver(**settings):
    return Proximal(PRIOR, PRIOR.schedule.geometric(12), consistency=Consistency(**settings))


def test_the_last_step_finishes_the_image_and_only_it():
    z, generator = _truth()
    physics = GaussianBlur(torch.tensor([0.0, 1.0, 2.0]), 0.05)
    problem = replace(Problem(physics(PRIOR.decode(z), generator), physics), variance=_variances(z).expand(3, 1, 8, 8))
    noise = torch.randn(3, 1, *z.shape[1:], generator=generator, dtype=z.dtype)
    step = _solver().step(z, torch.tensor([1, 2, 1]), problem, noise)
    assert step.image is not None and bool((step.image[1] == 0).all())
    assert _solver().step(z, torch.tensor([3, 2, 4]), problem, noise).image is None
    outcomes = list(run([started(z, torch.tensor([1, 2, 1]), problem, _solver())]))
    assert all(one.image is not None and one.result.failed is None for one in outcomes)


def test_uncertain_places_move_and_certain_ones_stay():
    z, generator = _truth(1)
    physics = Denoising(0.05)
    y = physics(PRIOR.decode(z), generator)
    variance = torch.full((1, 1, 8, 8), 1e-6, dtype=z.dtype)
    variance[..., :4] = 0.5
    moved = Consistency().latents(0 * z, variance, Problem(y, physics), PRIOR)
    assert float(moved[..., 4:].abs().max()) < 1e-3 < 0.5 * float(z[..., :4].abs().mean()) < moved[..., :4].abs().mean()


@pytest.mark.parametrize("std", [0.0, 1.0])
def test_no_noise_and_large_noise_stay_finite(std):
    z, generator = _truth()
    physics = GaussianBlur(torch.tensor([0.5, 1.0, 2.0]), std)
    problem = Problem(physics(PRIOR.decode(z), generator), physics)
    outcomes = list(run([started(z, torch.tensor([12, 5, 1]), problem, _solver(decoder_error=0.0))]))
    assert all(one.result.failed is None and bool(one.z.isfinite().all()) for one in outcomes)


class _Nan:
    """Gives NaN for dark images."""

    name = "nan"

    def A(self, x):
        return torch.where(x.flatten(1).mean(dim=1).view(-1, 1, 1, 1) < 0.3, torch.nan, x)


def test_an_operator_that_gives_nan_fails_that_image_alone():
    z, _ = _truth()
    z[1] = PRIOR.encode(torch.full((1, 3, 16, 16), 0.1, dtype=z.dtype))[0]
    problem = Problem(PRIOR.decode(z), _Nan())
    fitted = Consistency().latents(z, _variances(z).expand(3, 1, 8, 8), problem, PRIOR)
    assert fitted.flatten(1).isfinite().all(dim=1).tolist() == [True, False, True]


@pytest.mark.parametrize(("name", "bad"), [("trust", 0.0), ("trust", -1.0), ("error_share", float("nan"))])
def test_settings_out_of_range_are_refused(name, bad):
    with pytest.raises(InputError, match=f"{name} is"):
        Proximal(PRIOR, PRIOR.schedule.geometric(12), **{name: bad})
    with pytest.raises(InputError, match="decoder_error is -1"):
        Consistency(decoder_error=-1.0)


def test_a_sound_problem_gives_no_warning():
    z, generator = _truth()
    physics = GaussianBlur(torch.tensor([0.5, 1.0, 2.0]), 0.05)
    problem = Problem(physics(PRIOR.decode(z), generator), physics)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Consistency().latents(0 * z, _variances(z).expand(3, 1, 8, 8), problem, PRIOR)
