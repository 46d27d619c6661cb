"""What every solver promises, over all of them; a new solver is added to SOLVERS."""

import pytest
import torch

from flashdiffusion.physics import GaussianBlur
from flashdiffusion.sampling import LatentDPS, Problem, Transition, run
from toy import ToyPrior

PRIOR = ToyPrior()
SOLVERS = {
    "prior": lambda steps=None, delta=1.0: LatentDPS(PRIOR, Transition(PRIOR.schedule.grid(steps), delta), 0.0),
    "latent-dps": lambda steps=None, delta=1.0: LatentDPS(PRIOR, Transition(PRIOR.schedule.grid(steps), delta), 0.8),
}
COUNT = 5


@pytest.fixture(params=SOLVERS)
def make_solver(request):
    return SOLVERS[request.param]


def _batch(count: int = COUNT):
    generator = torch.Generator().manual_seed(0)
    x = PRIOR.decode(PRIOR.sample(count, 16, generator))
    physics = GaussianBlur(torch.linspace(0.0, 2.0, count), 0.05)
    z, noise = (torch.randn(count, 12, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    return z, noise, Problem(physics(x, generator), physics)


K = torch.tensor([1, 17, 300, 999, 1000])


def test_a_batch_equals_its_pictures_one_by_one(make_solver):
    solver = make_solver()
    z, noise, problem = _batch()
    together = solver.step(z, K, problem, noise)
    for row in range(COUNT):
        one = torch.tensor([row])
        alone = solver.step(z[one], K[one], problem.take(one), noise[one])
        torch.testing.assert_close(alone.z, together.z[one])
        torch.testing.assert_close(alone.z0, together.z0[one])


def test_permuting_the_batch_permutes_the_result(make_solver):
    solver = make_solver()
    z, noise, problem = _batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    together = solver.step(z, K, problem, noise).z
    permuted = solver.step(z[order], K[order], problem.take(order), noise[order]).z
    torch.testing.assert_close(permuted, together[order])


def test_finite_at_both_ends_and_detached(make_solver):
    solver = make_solver()
    z, noise, problem = _batch()
    for k in (1, 1000):
        result = solver.step(z, torch.full((COUNT,), k), problem, noise)
        assert bool(result.z.isfinite().all())
        assert not result.z.requires_grad and not result.z0.requires_grad


@pytest.mark.parametrize("start", [0, 1, 3, 20])
def test_a_start_at_k_makes_exactly_k_steps(make_solver, start):
    z, _, problem = _batch(1)
    generators = [torch.Generator().manual_seed(0)]
    (outcome,) = run(z, torch.tensor([start]), problem, make_solver(20), generators)
    assert outcome.nfe == start
    if start == 0:
        assert torch.equal(outcome.z, z[0])


def test_zero_guidance_is_the_unconditional_transition():
    z, noise, problem = _batch()
    guided = SOLVERS["prior"](delta=0.3)
    result = guided.step(z, K, problem, noise)
    z0 = PRIOR.denoise(z, K)
    torch.testing.assert_close(result.z, Transition(PRIOR.schedule.grid(), 0.3)(z, z0, K, noise))
    torch.testing.assert_close(result.z0, z0)


def test_latent_dps_moves_along_the_gradient_of_each_pictures_own_residual():
    """Closed form: for r = 2(A D ẑ0 - y), ẑ0 = w z, D(z) = (Qᵀz + 1) / 2, the gradient is w Q Aᵀ r / ‖r‖."""
    z, noise, problem = _batch()
    eta = 0.8
    free = SOLVERS["prior"]().step(z, K, problem, noise)
    guided = SOLVERS["latent-dps"]().step(z, K, problem, noise)
    z0 = PRIOR.denoise(z, K)
    residual = 2 * (problem.physics.A(PRIOR.decode(z0)) - problem.y)
    unit = residual / residual.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    back = problem.physics.A_adjoint(unit)
    transpose = torch.einsum("cp,bphw->bchw", PRIOR.basis, torch.nn.functional.pixel_unshuffle(back, 2))
    expected = z0 / z * transpose
    torch.testing.assert_close(free.z - guided.z, eta * expected)


def test_guidance_lowers_the_residual():
    z, _, problem = _batch()
    generators = [[torch.Generator().manual_seed(i) for i in range(COUNT)] for _ in range(2)]
    k = torch.full((COUNT,), 100)
    residuals = []
    for name, own in zip(("prior", "latent-dps"), generators, strict=True):
        outcomes = sorted(run(z, k, problem, SOLVERS[name](100), own), key=lambda o: o.index)
        residuals.append(problem.loss(PRIOR.decode(torch.stack([o.z for o in outcomes]))))
    assert bool((residuals[1] < 0.75 * residuals[0]).all())
