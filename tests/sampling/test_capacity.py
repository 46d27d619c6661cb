import pytest
import torch

from flashdiffusion.physics import GaussianBlur
from flashdiffusion.sampling import Capacity, LatentDPS, Problem, Transition, capacity
from toy import ToyPrior

PRIOR = ToyPrior()
SOLVER = LatentDPS(PRIOR, Transition(PRIOR.schedule.grid(50)), 0.5)


def _one(side: int = 16):
    z = torch.randn(12, side // 2, side // 2, dtype=torch.float64)
    return SOLVER, Problem(torch.rand(1, 3, side, side).double(), GaussianBlur([1.0])), 0, z


def test_bytes_grow_with_the_picture():
    def needed(side):
        solver, problem, _, z = _one(side)
        return max(capacity.picture_bytes(call) for call in solver.units(z[None], problem).values())

    assert needed(16) > 0
    assert needed(32) > 3 * needed(16)


def test_bytes_leave_parameters_out():
    layer = torch.nn.Linear(1000, 1000)
    x = torch.ones(1, 1000, requires_grad=True)
    assert capacity.picture_bytes(lambda: layer(x).square().sum()) < 10 * 4000


@pytest.mark.parametrize(("pictures", "expected"), [(0.1, 1), (5, 5), (1e6, capacity.BOUND_CPU)])
def test_a_chosen_capacity_is_what_free_memory_holds(monkeypatch, pictures, expected):
    solver, problem, _, z = _one()
    needed = max(capacity.picture_bytes(call) for call in solver.units(z[None], problem).values())
    free = (pictures + 0.1) * needed * capacity.WORKING / capacity.USED
    monkeypatch.setattr(capacity, "free_bytes", lambda device: free)
    chosen = Capacity()
    chosen.fit(*_one())
    assert chosen.rows == expected


def test_a_given_capacity_stands(monkeypatch):
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 0)
    given = Capacity(40)
    given.fit(*_one())
    assert given.rows == 40
    given.lower(0)
    assert given.rows == 1


def test_free_memory_is_known():
    assert capacity.free_bytes(torch.device("cpu")) > 2**20
