import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import GaussianBlur
from flashdiffusion.sampling import LatentDPS, Problem, StepResult, Transition, run
from toy import ToyPrior

PRIOR = ToyPrior()
SOLVER = LatentDPS(PRIOR, Transition(PRIOR.schedule.grid(50)), 0.5)
STARTS = torch.tensor([7, 0, 50, 1, 20, 20, 3])


def _inputs():
    generator = torch.Generator().manual_seed(0)
    count = len(STARTS)
    x = PRIOR.decode(PRIOR.sample(count, 16, generator))
    physics = GaussianBlur(torch.linspace(0, 2, count), 0.05)
    z = torch.randn(count, 12, 8, 8, generator=generator, dtype=torch.float64)
    return z, Problem(physics(x, generator), physics)


def _run(order: list[int], capacity: int):
    z, problem = _inputs()
    rows = torch.tensor(order)
    generators = [torch.Generator().manual_seed(index) for index in order]
    outcomes = list(run(z[rows], STARTS[rows], problem.take(rows), SOLVER, generators, capacity))
    return {order[outcome.index]: outcome for outcome in outcomes}, outcomes


def _sequential():
    """The published way: one picture at a time."""
    z, problem = _inputs()
    results = []
    for index, start in enumerate(STARTS.tolist()):
        generator = torch.Generator().manual_seed(index)
        one, part = z[index : index + 1], problem.take(torch.tensor([index]))
        for k in range(start, 0, -1):
            noise = torch.randn((1, *one.shape[1:]), generator=generator).to(one)[None]
            one = SOLVER.step(one, torch.tensor([k]), part, noise).z
        results.append(one[0])
    return results


@pytest.mark.parametrize("capacity", [1, 2, 3, 100])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6], [6, 2, 0, 5, 1, 4, 3]])
def test_equals_the_sequential_loop_for_any_capacity_and_order(capacity, order):
    results, _ = _run(order, capacity)
    for index, expected in enumerate(_sequential()):
        torch.testing.assert_close(results[index].z, expected)
        assert results[index].nfe == STARTS[index]


def test_easy_pictures_leave_before_hard_ones():
    _, outcomes = _run([2, 0, 3], 3)
    assert [outcome.index for outcome in outcomes] == [2, 1, 0]


def test_slots_are_refilled():
    moved = []
    z, problem = _inputs()
    generators = [torch.Generator().manual_seed(i) for i in range(len(STARTS))]
    list(run(z, STARTS, problem, SOLVER, generators, 2, moved.append))
    assert sum(moved) == int(STARTS.sum())
    assert max(moved) == 2
    # Two slots for 101 steps: with refilling, only the longest picture's tail runs alone.
    assert len(moved) <= int(STARTS.max()) + 5


def test_refuses_what_does_not_fit():
    z, problem = _inputs()
    generators = [torch.Generator() for _ in STARTS]
    with pytest.raises(InputError, match="one of each per picture"):
        list(run(z[:2], STARTS, problem, SOLVER, generators))
    with pytest.raises(InputError, match="capacity"):
        list(run(z, STARTS, problem, SOLVER, generators, 0))
    with pytest.raises(InputError, match="0 to 50"):
        list(run(z, STARTS + 1, problem, SOLVER, generators))


class _CostlyThird:
    """A solver whose steps from k = 3 are costly; it writes down what it was asked to step."""

    grid, name, draws = SOLVER.grid, "costly-third", 1

    def __init__(self):
        self.asked = []

    def check(self, problem):
        pass

    def cost(self, k):
        return 1.0 + 9 * (k == 3)

    def step(self, z, k, problem, noise):
        self.asked.append(k.tolist())
        return StepResult(z + 0.1 * noise[:, 0], z, {"step": torch.ones_like(k)})


def test_costly_steps_wait_for_each_other_and_stall_nobody():
    z, problem = _inputs()
    solver = _CostlyThird()
    starts = torch.tensor([3, 5, 2, 1, 4, 3, 7])
    generators = [torch.Generator().manual_seed(index) for index in range(7)]
    outcomes = list(run(z, starts, problem, solver, generators, capacity=7))
    assert [outcome.nfe for outcome in sorted(outcomes, key=lambda o: o.index)] == starts.tolist()
    costly = [asked for asked in solver.asked if 3 in asked]
    assert costly == [[3, 3, 3, 3, 3]]  # one call for all five pictures that pass k = 3
    assert [outcome.index for outcome in outcomes[:2]] == [3, 2]  # those without a costly step were done before it


def test_a_problem_that_the_solver_cannot_serve_is_refused_before_any_step():
    class Refusing(_CostlyThird):
        def check(self, problem):
            raise InputError("not this one")

    z, problem = _inputs()
    solver = Refusing()
    with pytest.raises(InputError, match="not this one"):
        next(run(z, STARTS, problem, solver, [torch.Generator()] * len(STARTS)))
    assert solver.asked == []
