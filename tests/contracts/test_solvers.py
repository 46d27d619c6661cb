"""What every solver promises, over all that are registered."""

import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import GaussianBlur
from flashdiffusion.solvers import GMLDPS, PSLD, Gradient, LatentDPS, Networks, Problem, ReSample, Transition, registry
from flashdiffusion.solvers.building import build_solver
from toy import ToyPrior, run, started

PRIOR = ToyPrior()


def _transition(steps=None, delta=1.0):
    return Transition(PRIOR.schedule.grid(steps), delta)


VARIANTS = {
    "latent-dps, every third": lambda *grid, **options: LatentDPS(
        PRIOR, _transition(*grid, **options), 2.4, gradient=Gradient(guide_every=30)
    ),
    "psld, cheap": lambda *grid, **options: PSLD(
        PRIOR,
        _transition(*grid, **options),
        1.6,
        0.3,
        gradient=Gradient(guide_every=20, jacobian=False, distilled="slope", decoder=lambda z: 0.9 * PRIOR.decode(z)),
    ),
    "resample, a few iterations": lambda *grid, **options: ReSample(
        PRIOR, _transition(*grid, **options), 40.0, 0.1, iterations=7
    ),
}


def _registered(name):
    given = {"guidance": 0.8, "omega": 0.3, "gamma": 40.0, "proximal": 0.1}
    return lambda *grid, **options: build_solver(name, Networks(PRIOR), _transition(*grid, **options), given)


# All that are registered: a new solver is here as soon as its file is.
SOLVERS = {name: _registered(name) for name in registry.SOLVERS} | VARIANTS
COUNT = 5


@pytest.fixture(params=SOLVERS)
def make_solver(request):
    return SOLVERS[request.param]


def _batch(count: int = COUNT):
    generator = torch.Generator().manual_seed(0)
    x = PRIOR.decode(PRIOR.sample(count, 16, generator))
    physics = GaussianBlur(torch.linspace(0.0, 2.0, count), 0.05)
    z = torch.randn(count, 12, 8, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 2, 12, 8, 8, generator=generator, dtype=torch.float64)
    return z, noise, Problem(physics(x, generator), physics)


# A step of each kind that a solver has: the last, a latent and a pixel correction of ReSample, a free one, the first.
K = torch.tensor([1, 20, 400, 999, 1000])


def test_a_batch_in_any_order_equals_its_images_one_by_one(make_solver):
    solver = make_solver()
    z, noise, problem = _batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    together = solver.step(z[order], K[order], problem.take(order), noise[order])
    for place, row in enumerate(order.tolist()):
        one = torch.tensor([row])
        alone = solver.step(z[one], K[one], problem.take(one), noise[one])
        torch.testing.assert_close(alone.z, together.z[[place]])
        torch.testing.assert_close(alone.z0, together.z0[[place]])


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
    (outcome,) = run([started(z, torch.tensor([start]), problem, make_solver(20))])
    assert outcome.result.nfe == start
    if start == 0:
        assert torch.equal(outcome.z, z[0])


def test_zero_guidance_is_the_unconditional_transition():
    z, noise, problem = _batch()
    guided = SOLVERS["prior"](delta=0.3)
    result = guided.step(z, K, problem, noise)
    z0 = PRIOR.denoise(z, K)
    torch.testing.assert_close(result.z, Transition(PRIOR.schedule.grid(), 0.3)(z, z0, K, noise[:, 0]))
    torch.testing.assert_close(result.z0, z0)


def test_latent_dps_moves_along_the_gradient_of_each_images_own_residual():
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


def _residuals(name):
    z, _, problem = _batch()
    outcomes = sorted(run([started(z, torch.full((COUNT,), 100), problem, SOLVERS[name](100))]), key=lambda o: o.row)
    return problem.loss(PRIOR.decode(torch.stack([o.z for o in outcomes])))


@pytest.fixture(scope="module")
def unguided():
    return _residuals("prior")


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "prior"])
def test_guidance_lowers_the_residual(unguided, name):
    assert bool((_residuals(name) < 0.75 * unguided).all())


def test_capacity_changes_nothing_and_work_is_counted(make_solver):
    z, _, problem = _batch()
    k = torch.tensor([3, 14, 7, 0, 9])
    results = []
    for max_in_flight in (1, 2, 5):
        outcomes = sorted(run([started(z, k, problem, make_solver(20))], max_in_flight), key=lambda o: o.row)
        assert [o.result.nfe for o in outcomes] == k.tolist()
        results.append(outcomes)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a.z, b.z)
            assert a.result.gflop == pytest.approx(b.result.gflop, abs=1e-12)


@pytest.mark.parametrize(("steps", "delta"), [(7, 1.0), (100, 0.0), (1000, 0.5)])
def test_any_number_of_steps_and_stochasticity(make_solver, steps, delta):
    z, noise, problem = _batch()
    result = make_solver(steps, delta).step(z, torch.tensor([1, 2, 3, 5, 7]), problem, noise)
    assert bool(result.z.isfinite().all())


class _Square:
    """A nonlinear physics: no adjoint."""

    def A(self, x):
        return x.square()


@pytest.mark.parametrize("name", SOLVERS)
def test_nonlinear_physics_is_served_by_all_but_psld(name):
    z, noise, problem = _batch()
    nonlinear = Problem(problem.y, _Square())
    if name.startswith("psld"):
        message = "psld needs a linear physics with A_adjoint, and _Square is not"
        for call in (SOLVERS[name]().check, lambda problem: SOLVERS[name]().step(z, K, problem, noise)):
            with pytest.raises(InputError, match=message):
                call(nonlinear)
        assert all(message in outcome.result.failed for outcome in run([started(z, K, nonlinear, SOLVERS[name]())]))
    else:
        assert bool(SOLVERS[name]().step(z, K, nonlinear, noise).z.isfinite().all())


def test_no_row_suffers_from_a_diverged_one(make_solver):
    z, noise, problem = _batch()
    broken = z.clone()
    broken[2] = float("nan")
    sound = torch.tensor([0, 1, 3, 4])
    with_nan = make_solver().step(broken, K, problem, noise).z[sound]
    torch.testing.assert_close(with_nan, make_solver().step(z, K, problem, noise).z[sound])


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_weights_out_of_range_are_refused(bad):
    for make in (
        lambda: LatentDPS(PRIOR, _transition(), bad),
        lambda: GMLDPS(PRIOR, _transition(), 1.0, bad),
        lambda: PSLD(PRIOR, _transition(), 1.0, bad),
        lambda: ReSample(PRIOR, _transition(), bad),
        lambda: ReSample(PRIOR, _transition(), 1.0, bad),
    ):
        with pytest.raises(InputError, match="expected a finite number >= 0"):
            make()
    for option in ("every", "iterations"):
        with pytest.raises(InputError, match=f"{option} is 0; expected at least 1"):
            ReSample(PRIOR, _transition(), **{option: 0})
