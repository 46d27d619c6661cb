import gc
import weakref

import pytest
import torch

from flashdiffusion.engine.capacity import Capacity
from flashdiffusion.engine.slots import PATIENCE
from flashdiffusion.errors import InputError
from flashdiffusion.physics import GaussianBlur, RandomInpainting
from flashdiffusion.solvers import LatentDPS, Problem, StepResult, Transition
from toy import ToyPrior, run, started

PRIOR = ToyPrior()
SOLVER = LatentDPS(PRIOR, Transition(PRIOR.schedule.grid(50)), 0.5)
STARTS = torch.tensor([7, 0, 50, 1, 20, 20, 3])


def _inputs(count: int = len(STARTS)):
    generator = torch.Generator().manual_seed(0)
    x = PRIOR.decode(PRIOR.sample(count, 16, generator))
    physics = GaussianBlur(torch.linspace(0, 2, count), 0.05)
    z = torch.randn(count, 12, 8, 8, generator=generator, dtype=torch.float64)
    return z, Problem(physics(x, generator), physics)


def _batches(order: list[int], size: int, solver=SOLVER):
    """The images in some order, `size` to a batch, each batch a problem of its own."""
    z, problem = _inputs()
    for first in range(0, len(order), size):
        part = order[first : first + size]
        rows = torch.tensor(part)
        yield started(z[rows], STARTS[rows], problem.take(rows), solver, part)


def _sequential():
    """The published way: one image at a time."""
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


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("max_in_flight", [1, 2, 3, 100])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6], [6, 2, 0, 5, 1, 4, 3]])
def test_equals_the_sequential_loop_for_any_capacity_order_and_batches(max_in_flight, order, size):
    outcomes = list(run(_batches(order, size), max_in_flight))
    expected = _sequential()
    seen = []
    for outcome in outcomes:
        index = outcome.source.generator.initial_seed()
        torch.testing.assert_close(outcome.z, expected[index])
        assert outcome.result.nfe == STARTS[index] and outcome.result.failed is None
        seen.append(index)
    assert sorted(seen) == sorted(order)


def test_easy_images_leave_before_hard_ones():
    outcomes = list(run(_batches([2, 0, 3], 3), 3))
    assert [outcome.result.nfe for outcome in outcomes] == [1, 7, 50]


def test_slots_are_refilled_across_batches():
    moved = []
    list(run(_batches([*range(len(STARTS))], 2), 2, moved.append))
    assert sum(moved) == int(STARTS.sum())
    assert max(moved) == 2
    # Two slots for 101 steps: with refilling, only the longest image's tail runs alone.
    assert len(moved) <= int(STARTS.max()) + 5


def test_the_longest_of_the_last_images_go_first():
    z, problem = _inputs(6)
    moved = []
    list(run([started(z, torch.tensor([10, 10, 10, 10, 10, 50]), problem, SOLVER)], 2, moved.append))
    assert len(moved) == 50  # the five others fit beside the longest


def test_batches_are_asked_for_as_slots_come_free():
    z, problem = _inputs(2)
    asked = []

    def source():
        for number in range(40):
            asked.append(number)
            yield started(z, torch.tensor([5, 5]), problem, SOLVER)

    outcomes = run(source(), 2)
    for done in range(1, 41):
        next(outcomes)
        # Two to a batch; two in flight and at most four times as many in line.
        assert len(asked) <= done / 2 + 1 + 4 + 1


def test_finished_images_are_not_kept():
    z, problem = _inputs(2)
    batches = 14
    seen = []

    def source():
        for _ in range(batches):
            made = started(z, torch.tensor([2, 3]), Problem(problem.y.clone(), problem.physics), SOLVER)
            seen.append(weakref.ref(made[0].problem))
            yield made
            del made

    alive = 0
    for n, _ in enumerate(run(source(), 2)):
        if n % 7 == 0:  # it takes a while in a large process
            gc.collect()
            alive = max(alive, sum(one() is not None for one in seen))
    assert 0 < alive < 10


def test_images_of_other_sizes_physics_and_solvers_share_the_engine():
    z, problem = _inputs(2)
    wide = Problem(torch.rand(2, 3, 16, 24), RandomInpainting(torch.ones(2, 1, 16, 24), 0.05))
    other = LatentDPS(PRIOR, Transition(PRIOR.schedule.grid(20), 0.5), 0.2)
    zs = torch.randn(2, 12, 8, 12, dtype=torch.float64)
    batches = [
        started(z, torch.tensor([6, 9]), problem, SOLVER),
        started(zs, torch.tensor([4, 8]), Problem(wide.y.double(), wide.physics), SOLVER, [2, 3]),
        started(z, torch.tensor([5, 5]), problem, other, [4, 5]),
        started(z, torch.tensor([5, 5]), Problem(problem.y, _Identity()), SOLVER, [6, 7]),
    ]
    alone = {outcome: outcome.z for batch in batches for outcome in run([_again(batch)], 1)}
    expected = {job.source.generator.initial_seed(): z for job, z in alone.items()}
    together = list(run(batches, 5))
    assert len(together) == 8
    for outcome in together:
        torch.testing.assert_close(outcome.z, expected[outcome.source.generator.initial_seed()])


def _again(batch):
    first = batch[0]
    z = torch.stack([job.z for job in batch])
    seeds = [job.source.generator.initial_seed() for job in batch]
    return started(z, torch.tensor([job.k for job in batch]), first.problem, first.solver, seeds)


class _Identity:
    def A(self, x):
        return x


def test_static_steps_are_filled_up_to_the_capacity():
    class Shapes(_Steps):
        def step(self, z, k, problem, noise):
            assert len(z) == len(k) == len(problem) == len(noise)
            self.asked.append(len(z))
            return StepResult(z + 0.1 * noise[:, 0], z)

    z, problem = _inputs()
    solver = Shapes()
    moved = []
    static = list(run([started(z, STARTS, problem, solver)], 4, moved.append, static=True))
    assert set(solver.asked) <= {1, 2, 4} and 3 in moved
    expected = {o.row: o for o in run([started(z, STARTS, problem, _Steps())], 4)}
    for outcome in static:
        assert torch.equal(outcome.z, expected[outcome.row].z)
        assert outcome.result.nfe == STARTS[outcome.row]


def test_refuses_what_does_not_fit():
    z, problem = _inputs()
    with pytest.raises(InputError, match="max_in_flight is 0; expected at least 1"):
        run([], 0)
    with pytest.raises(InputError, match="starts at 51; expected 0 to 50"):
        started(z, STARTS + 1, problem, SOLVER)


class _Steps:
    """A solver of trivial steps that writes down what it was asked to step."""

    grid, name, draws = SOLVER.grid, "steps", 1

    def __init__(self):
        self.asked = []

    def check(self, problem):
        pass

    def cost(self, k):
        return torch.ones(len(k))

    def step(self, z, k, problem, noise):
        self.asked.append(k.tolist())
        return StepResult(z + 0.1 * noise[:, 0], z)


class _CostlyThird(_Steps):
    def cost(self, k):
        return 1.0 + 9 * (k == 3)


def test_costly_steps_wait_for_each_other_and_stall_nobody():
    z, problem = _inputs()
    solver = _CostlyThird()
    starts = torch.tensor([3, 5, 2, 1, 4, 3, 7])
    outcomes = list(run([started(z, starts, problem, solver)], max_in_flight=7))
    assert [outcome.result.nfe for outcome in sorted(outcomes, key=lambda o: o.row)] == starts.tolist()
    costly = [asked for asked in solver.asked if 3 in asked]
    assert costly == [[3, 3, 3, 3, 3]]  # one call for all five images that pass k = 3
    assert [outcome.row for outcome in outcomes[:2]] == [
        3,
        2,
    ]  # they had no costly step


class _Small(_Steps):
    """Runs out of memory with more than two images."""

    def __init__(self, error):
        super().__init__()
        self.error, self.tried = error, []

    def step(self, z, k, problem, noise):
        self.tried.append(len(z))
        if len(z) > 2:
            raise self.error
        return super().step(z, k, problem, noise)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_is_answered_by_a_smaller_capacity(error):
    z, problem = _inputs()
    solver = _Small(error)
    max_in_flight = Capacity(7)
    outcomes = {o.row: o.z for o in run([started(z, STARTS, problem, solver)], max_in_flight)}
    expected = {o.row: o.z for o in run([started(z, STARTS, problem, _Steps())], 7)}
    assert outcomes.keys() == expected.keys()
    for row, z_end in expected.items():
        assert torch.equal(outcomes[row], z_end), "noise is drawn once, however often a step is tried"
    assert max_in_flight.rows <= 2
    assert sum(rows > 2 for rows in solver.tried) <= 2, "the lower max_in_flight is kept"


def test_images_of_a_rare_size_are_not_left_behind():
    z, problem = _inputs(2)
    rare = torch.randn(1, 12, 8, 12, dtype=torch.float64)
    wide = Problem(torch.rand(1, 3, 16, 24).double(), RandomInpainting(torch.ones(1, 1, 16, 24), 0.05))
    solver = _Steps()

    def source():
        yield started(rare, torch.tensor([1]), wide, solver)
        for _ in range(100):
            yield started(z, torch.tensor([4, 4]), problem, solver)

    done = [outcome.z.shape[-1] for outcome in run(source(), 4)]
    assert done.index(12) < 60, "of 201, though others are always the more"


def test_an_image_too_large_even_alone_is_given_up():
    class Never(_Small):
        def step(self, z, k, problem, noise):
            raise self.error

    z, problem = _inputs(3)
    outcomes = list(run([started(z, torch.tensor([2, 2, 2]), problem, Never(MemoryError()))], 3))
    assert [outcome.result.failed for outcome in outcomes] == ["out of memory, even alone"] * 3


def test_an_image_whose_step_is_refused_is_given_up_and_the_others_go_on():
    class Refusing(_Steps):
        def step(self, z, k, problem, noise):
            if bool((k == 4).any()):
                raise InputError("no fourth step")
            return super().step(z, k, problem, noise)

    z, problem = _inputs()
    outcomes = list(run([started(z, torch.tensor([3, 4, 2, 6, 1, 0, 3]), problem, Refusing())], 4))
    failed = {outcome.row: outcome.result.failed for outcome in outcomes if outcome.result.failed}
    assert failed == {1: "no fourth step", 3: "no fourth step"}
    assert sorted(outcome.row for outcome in outcomes) == [*range(7)]


def test_an_error_of_the_code_itself_is_not_swallowed():
    class Broken(_Steps):
        def step(self, z, k, problem, noise):
            raise RuntimeError("shapes do not match")

    z, problem = _inputs(2)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(run([started(z, torch.tensor([2, 2]), problem, Broken())], 2))


@pytest.mark.parametrize("max_in_flight", [1, 2, 16])
def test_batches_that_are_clean_at_the_start_do_not_end_the_run(max_in_flight):
    z, problem = _inputs(4)
    clean = torch.zeros(4, dtype=torch.int64)
    batches = [
        started(z, clean, problem, SOLVER),
        [],
        started(z, STARTS[:4], problem, SOLVER),
        started(z, clean, problem, SOLVER),
    ]
    assert len(list(run(iter(batches), max_in_flight))) == 12


class _Costly(_Steps):
    """Every step costs more than those of `_Steps`."""

    def cost(self, k):
        return torch.full((len(k),), 10.0)


@pytest.mark.parametrize("max_in_flight", [4, 16])
def test_no_image_waits_longer_than_its_patience_for_cheaper_ones(max_in_flight):
    z, problem = _inputs(5)
    order, cheap, costly = [], _Steps(), _Costly()
    cheap.asked = costly.asked = order

    def source():
        yield started(z[:1], torch.tensor([3]), problem, costly)
        for _ in range(64):
            yield started(z, torch.tensor([4] * 5), problem, cheap)

    served = [outcome.solver for outcome in run(source(), max_in_flight)]
    assert len(served) == 321
    steps = 3 * (PATIENCE + 1)  # of the engine, until it has made three of its own
    assert served.index(costly) <= steps * max_in_flight / 4 + max_in_flight
    assert served.index(costly) < 300


def test_costly_steps_wait_for_each_other_while_their_patience_lasts():
    z, problem = _inputs()
    cheap, costly = _Steps(), _Costly()
    starts = torch.tensor([PATIENCE + 10, 2, 2, 2, 2, 2, 2])
    batch = started(z, starts, problem, costly)
    batch[0] = started(z, starts, problem, cheap)[0]
    list(run([batch], 7))
    assert costly.asked == [[2] * 6, [1] * 6]
