"""Savings in the gradient, against closed forms of the toy prior."""

import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import GaussianBlur
from flashdiffusion.solvers import Gradient, LatentDPS, Problem, Transition
from toy import ToyPrior

PRIOR = ToyPrior()
TRANSITION = Transition(PRIOR.schedule.grid(), 0.0)
K = torch.tensor([10, 200, 700])


def _batch():
    generator = torch.Generator().manual_seed(0)
    x = PRIOR.decode(PRIOR.sample(3, 16, generator))
    physics = GaussianBlur(torch.tensor([0.0, 1.0, 2.0]), 0.05)
    z = torch.randn(3, 12, 8, 8, generator=generator, dtype=torch.float64)
    return z, torch.zeros(3, 1, 12, 8, 8, dtype=torch.float64), Problem(physics(x, generator), physics)


def _descent(k=K, **savings):
    """What a solver with these savings takes off the unconditional step."""
    z, noise, problem = _batch()
    free = LatentDPS(PRIOR, TRANSITION, 0.0).step(z, k, problem, noise)
    guided = LatentDPS(PRIOR, TRANSITION, 0.8, gradient=Gradient(**savings)).step(z, k, problem, noise)
    torch.testing.assert_close(guided.z0, free.z0)
    return free.z - guided.z


def test_without_the_jacobian_the_denoisers_output_is_a_constant():
    """The toy's ẑ0 is w z, so the full gradient holds a factor w where the one without Jacobian holds 1/a."""
    z, _, _ = _batch()
    w = PRIOR.denoise(z, K) / z
    a = PRIOR.abar[K].sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(_descent(jacobian=False), _descent() / w / a)


def test_only_every_mth_step_and_the_last_are_guided():
    k = torch.tensor([1, 4, 6])
    descent = _descent(k, guide_every=3)
    assert bool((descent[1] == 0).all())
    torch.testing.assert_close(descent[[0, 2]], _descent(k)[[0, 2]])


def test_guided_steps_are_as_far_apart_on_every_grid():
    at = {}
    for steps in (1000, 200, 30):
        solver = LatentDPS(PRIOR, Transition(PRIOR.schedule.grid(steps), 0.0), 0.8, gradient=Gradient(guide_every=50))
        k = torch.arange(1, steps + 1)
        at[steps] = solver.grid.times[k[solver.cost(k) > 1]]
    assert at[1000].tolist() == [1, *range(50, 1001, 50)]
    assert at[200].tolist() == [5, *range(50, 1001, 50)]
    assert len(at[30]) == 21 and int(at[30].diff().max()) < 50 + 1000 / 30


def test_a_distilled_decoder_stands_in_for_the_slope_or_for_all():
    def half(z):
        return PRIOR.decode(0.5 * z)

    torch.testing.assert_close(_descent(distilled="slope", decoder=half), 0.5 * _descent())
    different = _descent(distilled="all", decoder=half) - 0.5 * _descent()
    assert float(different.abs().max()) > 1e-3, "its residual is its own too"
    for distilled in ("slope", "all"):
        torch.testing.assert_close(_descent(distilled=distilled, decoder=PRIOR.decode), _descent())
    assert torch.equal(_descent(distilled="off", decoder=half), _descent())


def test_the_distilled_decoder_saves_the_backward_pass_of_d0():
    modes = []

    class Recording(ToyPrior):
        def decode(self, z):
            modes.append(torch.is_grad_enabled())
            return super().decode(z)

    z, noise, problem = _batch()
    for distilled, expected in (("off", [True]), ("slope", [False]), ("all", [])):
        modes.clear()
        gradient = Gradient(distilled=distilled, decoder=PRIOR.decode)
        LatentDPS(Recording(), TRANSITION, 0.8, gradient=gradient).step(z, K, problem, noise)
        assert modes == expected


@pytest.mark.parametrize(
    ("savings", "message"),
    [
        ({"guide_every": 0}, "guide_every is 0; expected at least 1 time"),
        ({"distilled": "none"}, "unknown distilled 'none'"),
        ({"distilled": "all"}, "this model has no distilled decoder"),
    ],
)
def test_refuses_what_cannot_be(savings, message):
    with pytest.raises(InputError, match=message):
        Gradient(**savings)
