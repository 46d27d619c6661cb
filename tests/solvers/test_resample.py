"""ReSample: its inner problem, its anchor, its schedule of corrections, its resampling."""

import pytest
import torch

from flashdiffusion.physics import GaussianBlur, RandomInpainting
from flashdiffusion.solvers import Problem, ReSample, Transition
from flashdiffusion.solvers.inner import minimise
from toy import ToyPrior

PRIOR = ToyPrior()


def _rows(values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def _towards(target):
    return lambda rows: lambda u: u - target[rows]


def test_each_row_stops_by_its_own_residual():
    target = _rows([0.0, 0.25, 3.0, 100.0])
    start = torch.zeros(4, 1, dtype=torch.float64)
    u, steps = minimise(start, _towards(target), torch.full((4,), 0.01, dtype=torch.float64), 0.1, 60, 0.0)
    assert steps[0] == 1 and 1 < steps[1] < steps[2] < steps[3] == 60  # evaluations: the last one finds it done
    assert bool(((u - target).square()[:3, 0] <= 0.01).all())
    for row in range(4):
        one, alone = minimise(start[[row]], _towards(target[[row]]), torch.tensor([0.01]), 0.1, 60, 0.0)
        assert torch.equal(one[0], u[row]) and alone[0] == steps[row]


def test_start_is_left_as_it_was():
    start = torch.zeros(2, 1, dtype=torch.float64)
    minimise(start, _towards(_rows([1.0, 2.0])), torch.zeros(2), 0.1, 20, 0.5)
    assert torch.equal(start, torch.zeros(2, 1, dtype=torch.float64))


@pytest.mark.parametrize("proximal", [0.0, 0.5, 1.0, 4.0])
def test_proximal_weight_pulls_towards_the_start(proximal):
    """argmin (u - t)² + λ u² = t / (1 + λ): an anchor that moved along with u would give t for every λ."""
    target = _rows([2.0, -1.0])
    u, _ = minimise(torch.zeros(2, 1, dtype=torch.float64), _towards(target), torch.zeros(2), 0.05, 600, proximal)
    torch.testing.assert_close(u, target / (1 + proximal), atol=1e-3, rtol=0)


def test_residual_is_asked_anew_when_rows_leave():
    seen = []

    def residual_of(rows):
        seen.append(rows.tolist())
        return lambda u: u - _rows([0.0, 0.2, 5.0])[rows]

    minimise(torch.zeros(3, 1, dtype=torch.float64), residual_of, torch.full((3,), 1e-3), 0.1, 30, 0.0)
    assert seen == [[0, 1, 2], [1, 2], [2]]


def _problem(count=3, noise_std=0.05):
    generator = torch.Generator().manual_seed(0)
    clean = PRIOR.sample(count, 16, generator)
    physics = GaussianBlur([0.4] * count, noise_std)
    return clean, Problem(physics(PRIOR.decode(clean), generator), physics)


def _noise(count):
    return torch.randn(count, 2, 12, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_corrections_come_where_they_are_due():
    solver = ReSample(PRIOR, Transition(PRIOR.schedule.grid(500)), iterations=3)
    _, problem = _problem(1)
    z = torch.randn(1, 12, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kinds = {}
    for k in (500, 380, 379, 375, 370, 160, 151, 150, 140, 139, 10, 9, 1):
        iterations = int(solver.step(z, torch.tensor([k]), problem, _noise(1)).iterations)
        in_latents = k < 150  # below 0.3 of the time
        kinds[k] = (0, iterations) if in_latents else (iterations, 0)
    free = {500, 380, 379, 375, 151, 139, 9}  # above 0.75 of the time, or not due
    assert all(kinds[k] == (0, 0) for k in free)
    assert all(kinds[k][0] > 0 and kinds[k][1] == 0 for k in (370, 160, 150))
    assert all(kinds[k][1] > 0 and kinds[k][0] == 0 for k in (140, 10, 1))
    full = ReSample(PRIOR, Transition(PRIOR.schedule.grid()))
    k = torch.arange(1, 501)
    assert torch.equal((solver.cost(k) > 1)[1:], (full.cost(2 * k) > 1)[1:]), "a spacing in time, on every grid"
    costs = solver.cost(torch.tensor([9, 160, 10]))
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize("k", [10, 160])
def test_a_correction_makes_the_estimate_consistent(k):
    """The step's mean is between the corrected estimate and z'; with a large γ it is the estimate itself."""
    _, problem = _problem()
    solver = ReSample(PRIOR, Transition(PRIOR.schedule.grid(500)), gamma=1e9)
    z = torch.randn(3, 12, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    position = torch.full((3,), k)
    result = solver.step(z, position, problem, torch.zeros(3, 2, 12, 8, 8, dtype=torch.float64))
    prev = PRIOR.schedule.grid(500).abar[k - 1]
    before = problem.residual(PRIOR.decode(result.z0)).square().flatten(1).mean(1)
    after = problem.residual(PRIOR.decode(result.z / prev.sqrt())).square().flatten(1).mean(1)
    assert bool((after <= 1.05 * 4 * 0.05**2).all()) and bool((before > 10 * after).all())


def test_resampling_has_the_stated_mean_and_variance():
    solver = ReSample(PRIOR, Transition(PRIOR.schedule.grid(500)), gamma=40.0)
    k = torch.full((4000,), 120)
    corrected, step = torch.full((4000, 1, 1, 1), 2.0), torch.full((4000, 1, 1, 1), -1.0)
    noise = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = solver._resample(step.double(), corrected.double(), k, noise)
    here, prev = (float(PRIOR.schedule.grid(500).abar[i]) for i in (120, 119))
    s2 = 40.0 * (1 - prev) / here * (1 - here / prev)
    mean = (s2 * prev**0.5 * 2 + (1 - prev) * -1) / (s2 + 1 - prev)
    variance = s2 * (1 - prev) / (s2 + 1 - prev)
    assert abs(float(drawn.mean()) - mean) < 4 * (variance / 4000) ** 0.5
    assert float(drawn.var()) == pytest.approx(variance, rel=0.1)


def test_the_last_step_ends_on_the_corrected_estimate():
    _, problem = _problem()
    solver = ReSample(PRIOR, Transition(PRIOR.schedule.grid(500)))
    z = torch.randn(3, 12, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = solver.step(z, torch.ones(3, dtype=torch.int64), problem, _noise(3))
    residual = problem.residual(PRIOR.decode(result.z)).square().flatten(1).mean(1)
    assert bool((residual <= 4 * 0.05**2).all())


def test_noise_level_is_each_images_own():
    """The noisier an image is said to be, the sooner its inner problem is done."""
    _, problem = _problem()
    noisy = Problem(problem.y, GaussianBlur([0.4] * 3, [0.001, 0.05, 1.0]))
    solver = ReSample(PRIOR, Transition(PRIOR.schedule.grid(500)))
    z = torch.randn(1, 12, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).expand(3, -1, -1, -1)
    iterations = solver.step(z, torch.full((3,), 10), noisy, _noise(3)).iterations
    assert iterations[0] == 100 and 1 < iterations[1] < 100 and iterations[2] == 1


def test_unseen_pixels_stay_as_they_were():
    """In pixel space, the inner problem moves only what was measured: dropped pixels keep D(z0)."""
    clean = PRIOR.sample(1, 16, torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    physics = RandomInpainting(mask, 0.01)
    problem = Problem(physics(PRIOR.decode(clean), torch.Generator().manual_seed(0)), physics)
    solver = ReSample(PRIOR, Transition(PRIOR.schedule.grid(500)))
    start = torch.zeros(1, 12, 8, 8, dtype=torch.float64)
    latents, _ = solver._in_pixels(start, problem)
    moved = (PRIOR.decode(latents) - PRIOR.decode(start)).abs().amax(dim=(0, 1, 2))
    assert float(moved[8:].max()) < 1e-9 and float(moved[:8].min()) > 0
