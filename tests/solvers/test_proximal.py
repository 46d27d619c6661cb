"""Proximal steps against closed forms of the toy prior."""

import warnings
from dataclasses import replace

import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import (
    JPEG,
    BoxInpainting,
    Compose,
    Denoising,
    GaussianBlur,
    Mixed,
    Operator,
    RandomInpainting,
)
from flashdiffusion.priors.padding import Padding
from flashdiffusion.solvers import Problem, Proximal
from flashdiffusion.solvers.consistency import Consistency, gauss_newton, white_variance
from flashdiffusion.solvers.estimate import in_holes
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


@pytest.mark.parametrize("begin", [0.0, 1.0])
def test_it_is_the_posterior_mean_of_a_gaussian(begin):
    """For y = D(z) + n with an orthonormal D, entry by entry, wherever the iterations begin."""
    z, generator = _truth()
    physics = Denoising(NOISE)
    y = physics(PRIOR.decode(z), generator)
    estimate = z + 0.3 * torch.randn(z.shape, generator=generator, dtype=z.dtype)
    variance, error = _variances(z), 0.02
    start = None if begin == 0 else begin * torch.randn(z.shape, generator=generator, dtype=z.dtype)
    problem, more = Problem(y, physics), {"error": error, "iterations": 40, "start": start}
    found = gauss_newton(estimate, variance.expand(3, 1, 8, 8), problem, PRIOR.decode, **more).value
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


def _tested(true_noise, told_noise, error, told_error):
    """Estimates whose error has this standard deviation, and is said to have that; noise likewise."""
    z, generator = _truth()
    y = Denoising(true_noise)(PRIOR.decode(z), generator)
    z_hat = z + error * torch.randn(z.shape, generator=generator, dtype=z.dtype)
    variance = torch.full((3, 1, 8, 8), told_error**2, dtype=z.dtype)
    problem = Problem(y, Denoising(told_noise).expand(3))
    return z, problem, Consistency(decoder_error=0.0).tested(z_hat, variance, problem, PRIOR)


def test_what_is_as_told_is_left_alone():
    _, _, found = _tested(0.1, 0.1, 0.3, 0.3)
    assert found.excess.tolist() == [0, 0, 0]
    assert found.factor.tolist() == pytest.approx([1, 1, 1], abs=0.3)


@pytest.mark.parametrize("times", [0.25, 4.0])
def test_a_wrong_variance_is_mended_half_the_way(times):
    """As much of the ratio is taken for chance where measurements say all of the latents."""
    _, _, found = _tested(0.02, 0.02, 0.3, 0.3 / times**0.5)
    assert found.factor.tolist() == pytest.approx([times**0.5] * 3, rel=0.15)


def test_a_small_residual_does_not_lower_the_variance_of_latents_that_are_pixels(monkeypatch):
    """An estimate that keeps the pixels that were measured, and errs in the rest."""
    z, generator = _truth()
    x, kept = PRIOR.decode(z), (torch.rand(3, 1, 16, 16, generator=generator) < 0.25).double()
    physics = RandomInpainting(kept, noise_std=0.05)
    z_hat = PRIOR.encode(x + 0.3 * (1 - kept) * torch.randn(x.shape, generator=generator, dtype=x.dtype))
    told = torch.full((3, 1, 8, 8), float((z_hat - z).square().mean()), dtype=z.dtype)
    problem = Problem(physics(x, generator), physics)
    assert max(Consistency(0.0).tested(z_hat, told, problem, PRIOR).factor) < 0.8
    monkeypatch.setattr(PRIOR, "invertible", True)
    assert Consistency(0.0).tested(z_hat, told, problem, PRIOR).factor.tolist() == [1, 1, 1]


def test_noise_that_was_not_told_is_found_and_believed():
    z, problem, found = _tested(torch.tensor([0.05, 0.3, 0.05]), 0.05, 0.1, 0.1)
    assert found.excess[[0, 2]].tolist() == [0, 0] and 0.005 < float(found.excess[1]) <= 4 * 0.3**2
    estimate = found.z + 0.1 * torch.randn(z.shape, generator=torch.Generator().manual_seed(5), dtype=z.dtype)
    variance = torch.full((3, 1, 8, 8), 0.01, dtype=z.dtype)
    trusting, doubting = (
        Consistency(decoder_error=0.0).latents(estimate, variance, replace(problem, excess=excess), PRIOR)
        for excess in (None, found.excess)
    )
    assert torch.equal(trusting[[0, 2]], doubting[[0, 2]])
    assert float((doubting - z)[1].square().mean()) < 0.7 * float((trusting - z)[1].square().mean())


@pytest.mark.parametrize("told", [0.0, 0.01])
def test_a_finished_image_takes_no_noise_from_y_that_was_not_told(told):
    z, generator = _truth()
    x, noise = PRIOR.decode(z), 0.1
    problem = Problem(Denoising(noise)(x, generator), Denoising(told).expand(3))
    consistency = Consistency(decoder_error=0.02)
    found = consistency.tested(z, torch.full((3, 1, 8, 8), 1e-4, dtype=z.dtype), problem, PRIOR)
    knowing = consistency.pixels(x, replace(problem, excess=found.excess))
    assert float((consistency.pixels(x, problem) - x).square().mean().sqrt()) > 0.05
    assert float((knowing - x).square().mean().sqrt()) < 0.01


def test_pixels_take_from_y_what_the_decoder_cannot_show():
    """argmin ‖x - y‖² / σ² + ‖x - D‖² / c."""
    z, generator = _truth()
    physics = Denoising(0.05)
    x = PRIOR.decode(z)
    y, shown, c = physics(x, generator), x + 0.1, 0.04
    found = Consistency(decoder_error=c).pixels(shown, Problem(y, physics))
    torch.testing.assert_close(found, (shown / c**2 + y / 0.05**2) / (1 / c**2 + 1 / 0.05**2), atol=1e-5, rtol=1e-4)
    assert torch.equal(Consistency(decoder_error=0.0).pixels(shown, Problem(y, physics)), shown)


@pytest.mark.parametrize("error", [0.0, 0.02])
def test_pixels_that_a_mask_kept_without_noise_are_kept_exactly(error):
    x = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 12, 12)
    mask[:, 3:9, 3:9] = 0
    holes, blur = RandomInpainting(mask, [0.0, 0.1, 0.0]), GaussianBlur([0.5], 0.0)
    blurred = Compose(blur, holes.take(torch.tensor([2])))
    physics = Mixed([(torch.tensor([0, 1]), holes.take(torch.tensor([0, 1]))), (torch.tensor([2]), blurred)])
    problem = replace(Problem(physics.A(x), physics), excess=torch.full((3,), 0.1)).padded(Padding((12, 12), (16, 16)))
    shown = problem.for_network(0.8 * x)
    found = Consistency(decoder_error=error).pixels(shown, problem)
    assert found.shape == shown.shape
    kept, own = mask[:, None].expand_as(x) == 1, problem.cropped(found)
    assert torch.equal(own[0][kept[0]], x[0][kept[0]])
    for row in (1, 2):
        assert not torch.isclose(own[row], x[row])[kept[row]].any()
    torch.testing.assert_close(own[0][~kept[0]], 0.8 * x[0][~kept[0]])


def _solver(**settings):
    return Proximal(PRIOR, PRIOR.schedule.geometric(12), consistency=Consistency(**settings))


@pytest.mark.parametrize("quality", [10, 50])
def test_rounding_that_passes_gradients_on_is_fitted(quality):
    """A difference of JPEG is 0 or a whole step; its derivative as autograd has it says where to go."""
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).repeat_interleave(8, -1)
    x = x.repeat_interleave(8, -2)
    physics = JPEG(quality, noise_std=0.01)
    problem = Problem(physics(x, torch.Generator().manual_seed(2)), physics)
    begin = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))).clamp(0.05, 0.95)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Consistency(decoder_error=0.1).pixels(begin, problem)
    assert bool((problem.loss(found) < 0.8 * problem.loss(begin)).all())


class _Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class _Strict(_Squared):
    """The same, with a backward of its own opinion."""

    @staticmethod
    def backward(ctx, gradient):
        assert not gradient.requires_grad
        return 2 * ctx.saved_tensors[0] * gradient


@pytest.mark.parametrize("function", [_Squared, _Strict])
def test_an_operator_without_a_second_derivative_is_fitted_all_the_same(function):
    x = torch.linspace(0.2, 0.8, 3 * 64).view(1, 3, 8, 8)
    once, twice = Operator(function.apply, noise_std=0.05), Operator(lambda x: x * x, noise_std=0.05)
    found = [Consistency(decoder_error=0.1).pixels(x, Problem((x + 0.1) ** 2, one)) for one in (once, twice)]
    assert bool((found[1] - x > 0.02).all())
    torch.testing.assert_close(found[0], found[1], atol=3e-3, rtol=0)


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


def test_in_holes_noise_is_added_down_to_the_last_level():
    z, generator = _truth(2, 48)
    physics = BoxInpainting([8, 0], [8, 0], [20, 0], [20, 0], 0.05)
    problem = Problem(physics(PRIOR.decode(z), generator), physics)
    inside = in_holes(problem, (24, 24)).expand_as(z)
    problem = replace(problem, variance=torch.where(inside[:, :1], 1.0, 0.01).to(z))
    solver = Proximal(PRIOR, PRIOR.schedule.geometric(12), error_share=100.0)
    k, noise = torch.tensor([3, 3]), torch.randn(2, 1, *z.shape[1:], generator=generator, dtype=z.dtype)
    added = solver.step(z, k, problem, noise).z - solver.step(z, k, problem, 0 * noise).z
    abar = solver.grid.abar[k - 1].view(-1, 1, 1, 1).to(z)
    torch.testing.assert_close(added[inside], ((1 - abar).sqrt() * noise[:, 0])[inside])
    assert not bool(added[~inside].any()), "elsewhere κ mean(m) is more than the next level"


def test_what_lies_around_a_hole_does_not_move_it_far(monkeypatch):
    z, generator = _truth(1, 48)
    physics = BoxInpainting(8, 8, 20, 20, 0.05)
    problem = Problem(physics(PRIOR.decode(z), generator), physics)
    inside = in_holes(problem, (24, 24))
    problem = replace(problem, variance=torch.where(inside, 1.0, 0.01).to(z))
    seen = []
    latents = Consistency.latents
    monkeypatch.setattr(
        Consistency,
        "latents",
        lambda self, z, c, *more, **options: seen.append(c) or latents(self, z, c, *more, **options),
    )
    k, noise = torch.tensor([3]), torch.zeros(1, 1, *z.shape[1:], dtype=z.dtype)
    for trust in (4.0, 0.5):
        solver = Proximal(PRIOR, PRIOR.schedule.geometric(12), trust=trust)
        solver.step(z, k, problem, noise)
        here = solver._noise(k).to(z)
        expected = [r * m * here / (m + here) for r, m in ((min(1.0, trust), 1.0), (trust, 0.01))]
        torch.testing.assert_close(seen[-1], torch.where(inside, *expected))


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


def test_white_noise_is_told_from_smooth_errors():
    noise = torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1, 1) * torch.randn(
        3, 3, 64, 64, generator=torch.Generator().manual_seed(0)
    )
    smooth = 5 * torch.linspace(0, 1, 64).view(1, 1, 1, 64)
    torch.testing.assert_close(white_variance(noise + smooth), torch.tensor([0.25, 1.0, 4.0]), rtol=0.1, atol=0)
    assert white_variance(noise.flatten(1)).tolist() == [torch.inf] * 3
