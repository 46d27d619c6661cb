import pytest
import torch

from flashdiffusion.engine import capacity
from flashdiffusion.engine.capacity import Capacity, Failure, Limit, in_parts
from flashdiffusion.engine.memory import KeptMemory, free_bytes
from flashdiffusion.errors import InputError, is_out_of_memory
from flashdiffusion.physics import GaussianBlur
from flashdiffusion.solvers import LatentDPS, Problem, Transition
from toy import ToyPrior, run, started

PRIOR = ToyPrior()
SOLVER = LatentDPS(PRIOR, Transition(PRIOR.schedule.grid(50)), 0.5)


def _one(side: int = 16) -> tuple[torch.Tensor, Problem]:
    z = torch.randn(1, 12, side // 2, side // 2, dtype=torch.float64)
    return z, Problem(torch.rand(1, 3, side, side).double(), GaussianBlur([1.0]))


def _needed(side: int = 16) -> int:
    z, problem = _one(side)
    with KeptMemory() as kept:
        SOLVER.step(z, torch.tensor([3]), problem, torch.zeros_like(z)[:, None])
    return kept.bytes


def test_bytes_grow_with_the_image():
    assert _needed(16) > 0
    assert _needed(32) > 3 * _needed(16)


def test_bytes_leave_parameters_out():
    layer = torch.nn.Linear(1000, 1000)
    x = torch.ones(1, 1000, requires_grad=True)
    with KeptMemory() as kept:
        layer(x).square().sum()
    assert 0 < kept.bytes < 10 * 4000


class _Counted(LatentDPS):
    """Writes down how many images each step takes."""

    def step(self, z, k, problem, noise):
        SIZES.append(len(z))
        return super().step(z, k, problem, noise)


SIZES: list[int] = []


@pytest.mark.parametrize(("images", "expected"), [(0.1, 1), (5, 5), (1e6, 12)])
def test_the_first_image_tells_how_many_fit(monkeypatch, images, expected):
    """It makes its step alone, and no image makes one that counts for nothing."""
    free = (images + 0.1) * _needed() * capacity.WORKING / capacity.USED
    monkeypatch.setattr(capacity, "free_bytes", lambda device: free)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # one lane
    SIZES.clear()
    z, problem = _one()
    many = problem.take(torch.zeros(12, dtype=torch.int64))
    solver = _Counted(PRIOR, SOLVER.transition, 0.5)
    list(run([started(z.expand(12, -1, -1, -1), torch.full((12,), 3), many, solver)], Capacity()))
    assert SIZES[0] == 1 and max(SIZES) == expected
    assert sum(SIZES) == 36


def test_a_large_image_does_not_lower_the_capacity_of_small_ones(monkeypatch):
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 6.1 * _needed() * capacity.WORKING / capacity.USED)
    chosen = Capacity()
    chosen.fit("small", _needed(16), torch.device("cpu"))
    chosen.fit("large", _needed(64), torch.device("cpu"))
    assert (chosen.limit("small").rows, chosen.limit("large").rows, chosen.rows) == (6, 1, 6)


def test_a_given_capacity_stands():
    given = Capacity(40)
    assert given.fits("kind") and given.rows == given.limit("kind").rows == 40


class _Refusing:
    def __init__(self, error):
        self.error = error

    def A(self, x):
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [(InputError("not these rows"), "not these rows"), (MemoryError(), "out of memory, even alone")],
)
def test_an_image_that_cannot_be_measured_stops_itself_alone(error, reason):
    z, problem = _one()
    bad = Problem(problem.y, _Refusing(error))
    batches = [started(z, torch.tensor([3]), bad, SOLVER), started(z, torch.tensor([3]), problem, SOLVER)]
    outcomes = {outcome.problem is bad: outcome for outcome in run(batches, Capacity())}
    assert outcomes[True].result.failed == reason
    assert outcomes[False].result.failed is None and outcomes[False].result.nfe == 3


def test_one_row_is_tried_twice_since_others_may_have_held_the_memory():
    tried = []

    def call(rows):
        tried.append(rows)
        if len(tried) == 1:
            raise MemoryError
        return sum(rows)

    assert list(in_parts(call, [5], Limit(4))) == [([5], 5)]
    assert tried == [[5], [5]]


def test_parts_that_fail_are_halved_until_the_culprit_is_alone():
    def call(rows):
        if 3 in rows:
            raise InputError("three")
        return sum(rows)

    limit = Limit(8)
    done = list(in_parts(call, range(6), limit))
    assert [(rows, result) for rows, result in done if isinstance(result, Failure)] == [([3], Failure("three"))]
    assert sorted(row for rows, _ in done for row in rows) == [*range(6)] and limit.rows == 8


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (RuntimeError("shapes do not match"), False),
        (InputError("out of memory is a phrase here"), False),
    ],
)
def test_out_of_memory_is_known_by_what_is_said(error, expected):
    assert is_out_of_memory(error) is expected


def test_free_memory_is_known():
    assert free_bytes(torch.device("cpu")) > 2**20
