"""What lies under a hole is no data: it changes nothing."""

import pytest
import torch

from flashdiffusion import BoxInpainting, Compose, GaussianBlur, InputError, Mixed, RandomInpainting, Settings
from flashdiffusion.solvers import Problem

MASK = (torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def _operators():
    random, box = RandomInpainting(MASK), BoxInpainting([4], [6], [20], [9])
    yield random
    yield box
    yield Compose(GaussianBlur([1.0]), random)
    both = Mixed([(torch.tensor([0]), random), (torch.tensor([1]), box)])
    yield both


def _filled(physics, value: float) -> torch.Tensor:
    """Measurements of one image, with `value` wherever nothing was measured."""
    x = torch.rand(len(physics), 3, 32, 32, generator=torch.Generator().manual_seed(1))
    seen = physics.measured(torch.ones_like(x))
    return physics.A(x) * seen + value * (1 - seen)


@pytest.mark.parametrize("physics", [*_operators()], ids=lambda one: one.name)
@pytest.mark.parametrize("solver", ["latent-dps", "gml-dps", "resample"])
def test_the_filling_of_holes_changes_nothing(tiny_pipeline, physics, solver):
    settings = Settings(steps=2 if solver == "resample" else 10)  # each of its steps is an inner problem
    black, white = (
        tiny_pipeline(_filled(physics, value), physics, solver=solver, settings=settings) for value in (0.0, 1.0)
    )
    assert torch.equal(black.images, white.images)
    assert torch.equal(black.severity, white.severity)


@pytest.mark.parametrize("physics", [*_operators()], ids=lambda one: one.name)
def test_the_residual_at_the_truth_is_the_noise_of_what_was_measured(physics):
    x = torch.rand(len(physics), 3, 32, 32, generator=torch.Generator().manual_seed(1))
    y = physics(x, torch.Generator().manual_seed(2))
    problem = Problem(y, physics)
    mean = problem.residual(x).flatten(1).square().mean(dim=1)
    torch.testing.assert_close(mean, problem.residual_variance.float(), rtol=0.15, atol=0)


def test_noise_on_the_scale_of_grey_levels_is_refused_with_the_conversion():
    with pytest.raises(InputError, match=r"noise std is 12\.75; expected the \[0, 1\] scale.* is 0\.05"):
        GaussianBlur([1.0], noise_std=12.75)


@pytest.mark.parametrize("physics", [*_operators()], ids=lambda one: one.name)
def test_a_step_size_means_the_same_as_with_noise_in_every_entry(physics):
    """The gradient of the loss is that of the norm of the whole residual, in expectation of the noise in the holes."""
    x = torch.rand(len(physics), 3, 32, 32, generator=torch.Generator().manual_seed(1))
    y = physics(x, torch.Generator().manual_seed(2))
    point = (x + 0.03 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))).requires_grad_()
    whole = (2 * (physics.A(point) - y)).flatten(1).norm(dim=1)
    (expected,) = torch.autograd.grad(whole.sum(), point)
    (found,) = torch.autograd.grad(Problem(y, physics).loss(point).sum(), point)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=1e-6)


def test_nothing_changes_where_everything_was_measured():
    physics = GaussianBlur([1.0, 2.0])
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    y = physics(x, torch.Generator().manual_seed(2))
    assert torch.equal(Problem(y, physics).loss(x), (2 * (physics.A(x) - y)).flatten(1).norm(dim=1))
