import threading

import pytest
import torch

from flashdiffusion.engine.lanes import Lanes
from flashdiffusion.physics import GaussianBlur
from flashdiffusion.solvers import LatentDPS, Problem, Transition
from toy import ToyPrior, run, started


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_rows_are_shared_evenly_by_lanes_that_have_enough(four_threads):
    lanes = Lanes(torch.device("cpu"), 18)
    assert [len(part) for part in lanes.split(range(18))] == [4, 5, 4, 5]
    assert [len(part) for part in lanes.split(range(9))] == [4, 5]
    assert [len(part) for part in lanes.split(range(7))] == [7]
    assert [row for part in lanes.split(range(18)) for row in part] == [*range(18)]
    lanes.close()


def test_other_devices_have_one_lane(four_threads):
    assert [len(part) for part in Lanes(torch.device("meta"), 64).split(range(64))] == [64]


def test_each_lane_has_its_share_of_the_cores(four_threads):
    lanes = Lanes(torch.device("cpu"), 8)
    together = threading.Barrier(2)

    def call(part):
        together.wait(10)  # both run at the same time, or this breaks
        return sum(part), torch.get_num_threads()

    assert lanes.map(call, [[1, 2], [3]]) == [(3, 2), (3, 2)]
    lanes.close()
    assert torch.get_num_threads() == 4
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [4], "threads that begin afterwards have all cores"


def test_lanes_change_nothing(four_threads):
    prior = ToyPrior()
    solver = LatentDPS(prior, Transition(prior.schedule.grid(20)), 0.5)
    generator = torch.Generator().manual_seed(0)
    x = prior.decode(prior.sample(10, 16, generator))
    physics = GaussianBlur(torch.linspace(0, 2, 10), 0.05)
    z, problem = torch.randn(10, 12, 8, 8, generator=generator, dtype=torch.float64), Problem(physics(x), physics)
    k = torch.tensor([3, 20, 5, 9, 9, 1, 14, 2, 0, 7])
    seen = []

    class Watched(LatentDPS):
        def step(self, z, k, problem, noise):
            seen.append(threading.current_thread().name)
            return super().step(z, k, problem, noise)

    watched = Watched(prior, solver.transition, 0.5)
    wide = {o.row: o.z for o in run([started(z, k, problem, watched)], 10)}
    alone = {o.row: o.z for o in run([started(z, k, problem, solver)], 1)}
    assert any("lane" in name for name in seen)
    for row, expected in alone.items():
        torch.testing.assert_close(wide[row], expected)
