"""An operator's error as blurs of the image, and when an operator is doubted."""

from dataclasses import replace

import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import Denoising, GaussianBlur, Operator, RandomInpainting, SuperResolution
from flashdiffusion.severity import Conditions, Severity
from flashdiffusion.solvers import Problem, consistency
from flashdiffusion.solvers.mismatch import LEAST_SIDE, STDS, mismatch_of, mismatched
from flashdiffusion.solvers.operator_check import find_mismatch
from toy import ToyPrior

PRIOR = ToyPrior()


def _images(count: int = 2, height: int = 32, width: int = 40) -> torch.Tensor:
    """Detail at every scale."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.rand(count, 3, height, width, generator=generator, dtype=torch.float64)
    return 0.3 * fine + 0.4 * GaussianBlur(1.0).A(fine) + 0.3 * GaussianBlur(3.0).A(fine)


def test_the_transpose_is_the_adjoint_and_brightness_is_kept():
    x, y = _images(), _images().flip(2)
    weights = torch.randn(2, len(STDS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    forward, back = (mismatched(x, weights) * y).sum(), (x * mismatched(y, weights, transposed=True)).sum()
    torch.testing.assert_close(forward, back)
    assert float(mismatched(torch.full_like(x, 0.7), weights).abs().max()) < 1e-6


@pytest.mark.parametrize(("true", "told"), [(2.6, 1.2), (1.2, 2.6), (1.0, 0.0), (0.4, 3.0)])
def test_a_blur_of_another_width_is_found(true, told):
    x = _images()
    missing = GaussianBlur(true).A(x) - GaussianBlur(told).A(x)
    weights = mismatch_of(x, missing)
    left = (missing - mismatched(x, weights)).square().mean(dim=(1, 2, 3))
    assert bool((left < 0.02 * missing.square().mean(dim=(1, 2, 3))).all())
    torch.testing.assert_close(mismatch_of(x[1:], missing[1:]), weights[1:])


def test_a_problem_measures_by_the_corrected_operator_and_carries_it():
    x, weights = _images(3), torch.zeros(3, len(STDS), dtype=torch.float64)
    weights[1:, 2] = torch.tensor([0.5, -0.3])
    physics = GaussianBlur([1.0, 1.5, 2.0])
    plain = Problem(physics.A(x), physics)
    problem = replace(plain, mismatch=weights)
    assert torch.equal(problem.measure(x)[:1], plain.measure(x)[:1])
    torch.testing.assert_close(problem.measure(x) - plain.measure(x), mismatched(x, weights))
    inner = (problem.measure(x) * plain.y).sum(), (x * problem.adjoint(plain.y)).sum()
    torch.testing.assert_close(*inner)
    part = problem.take(torch.tensor([2]))
    torch.testing.assert_close(part.measure(x[2:]), problem.measure(x)[2:])
    joined = Problem.join([part, problem.take(torch.tensor([0]))])
    torch.testing.assert_close(joined.measure(x[[2, 0]]), problem.measure(x)[[2, 0]])
    assert problem.kind != plain.kind
    with pytest.raises(InputError, match="no A_adjoint"):
        replace(Problem(x, Operator(lambda x: x * x)), mismatch=weights).adjoint(x)


class _Encoder:
    """Says of every image that the variance of its error is this."""

    def __init__(self, blind: float) -> None:
        self.blind = blind

    def __call__(self, y: torch.Tensor, known: Conditions | None = None) -> Severity:
        return Severity(PRIOR.encode(y), torch.full((len(y),), self.blind, dtype=y.dtype))


def _doubted(true, told, blind=0.01, surprise=5.0, left=1.0, size=32):
    """Whether the operator is, if the estimate is right, or lacks detail."""
    x = _images(2, size, size)
    physics = told if isinstance(told, GaussianBlur) else told.expand(2)
    problem = Problem(true.A(x), physics)
    z = PRIOR.encode(x)
    taken = 4 * (problem.y - physics.A(x)).flatten(1).square().mean(dim=1)
    ones = torch.ones(2, dtype=x.dtype)
    tested = consistency.Tested(z, 0 * ones, ones, surprise * ones, left * ones, taken)
    return find_mismatch(problem, Severity(z, 0.01 * ones), tested, _Encoder(blind), PRIOR).mismatch


def test_an_operator_is_doubted_where_blurs_explain_what_the_map_does_not():
    wrong, right = GaussianBlur([2.5, 2.5]), GaussianBlur([1.0, 1.0])
    found = _doubted(wrong, right)
    assert found is not None and bool(found.any(dim=1).all())
    assert _doubted(wrong, right, surprise=1.2) is None  # the map explains it
    assert _doubted(wrong, right, left=3.0) is None  # noise that was not told
    assert _doubted(wrong, right, blind=0.002) is None  # told of it, the encoder knows that it errs
    one = _doubted(wrong, right, surprise=torch.tensor([1.2, 5.0]))
    assert one is not None and one.any(dim=1).tolist() == [False, True]


def test_what_blurs_cannot_correct_is_believed():
    assert _doubted(GaussianBlur([2.0, 2.0]), GaussianBlur([0.1, 0.1]), size=LEAST_SIDE - 1) is None
    mask = (torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    assert _doubted(RandomInpainting(mask).expand(2), RandomInpainting(1 - mask)) is None
    assert _doubted(SuperResolution(2), SuperResolution(2, noise_std=0.1)) is None


def test_detail_that_the_estimate_lacks_is_no_fault_of_the_operator():
    """Of a right operator and an estimate that misses detail at random, whatever the map says of it."""
    x = _images(2)
    error = 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    physics = Denoising(0.01).expand(2)
    problem = Problem(x, physics)
    z, ones = PRIOR.encode(x + error), torch.ones(2, dtype=x.dtype)
    tested = consistency.Tested(z, 0 * ones, ones, 9 * ones, ones, 4 * error.flatten(1).square().mean(dim=1))
    assert find_mismatch(problem, Severity(z, 0.001 * ones), tested, _Encoder(0.001), PRIOR).mismatch is None


def test_the_test_tells_what_a_fit_takes_and_leaves():
    x = _images()
    z = PRIOR.encode(x)
    y = GaussianBlur([1.0, 1.0])(x, torch.Generator().manual_seed(0))
    found = []
    for std in (1.0, 2.5):
        problem = Problem(y, GaussianBlur([std, std]))
        fitting = consistency.Consistency(decoder_error=0.0)
        one = fitting.tested(z, torch.full_like(z[:, :1], 1e-3), problem, PRIOR)
        here = problem.residual(PRIOR.decode(z)).flatten(1).square().mean(dim=1)
        torch.testing.assert_close(one.taken + one.left * problem.entry_variance, here)
        found.append(one)
    assert bool((found[0].left < 1.2).all()) and bool((found[1].surprise > 2 * found[0].surprise).all())


def test_a_corrected_image_leaves_the_map_of_another_alone():
    """Of an encoder without a map, beside an image whose hole has one."""
    z, logs = torch.zeros(2, 4, 3, 3), torch.linspace(-2, 0, 18).view(2, 3, 3)
    whole = Severity(z, logs.exp().mean(dim=(1, 2)), logs)
    found = whole.updated(torch.tensor([1]), Severity(z[1:] + 1, torch.tensor([0.25])))
    assert torch.equal(found.map[0], whole.map[0]) and torch.equal(found.var[:1], whole.var[:1])
    torch.testing.assert_close(found.map[1], torch.full((1, 3, 3), 0.25))
    assert float(found.z_hat[1].mean()) == 1 and float(found.z_hat[0].mean()) == 0


def test_flat_images_give_no_weights_from_rounding():
    x = torch.full((1, 3, 32, 32), 0.5)
    missing = 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert float(mismatch_of(x, missing).abs().max()) < 10
