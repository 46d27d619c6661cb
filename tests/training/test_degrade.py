"""Degradations of a training step: noise within its range, rows independent of how processes share them."""

import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.training.degrade import Degradation
from flashdiffusion.training.draws import Draws

SIZE = (24, 20)


def _draws(rows: slice = slice(None), total: int = 8, step: int = 5) -> Draws:
    return Draws(1, step, total, rows, "cpu")


def _x(count: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def test_noise_levels_fill_their_range():
    x = torch.full((64, 3, *SIZE), 0.5)  # which a blur leaves as it is
    y = Degradation("gaussian-blur", (0.02, 0.1))(x, _draws(total=64))
    std = (y - x).flatten(1).std(dim=1)
    assert 0.018 < float(std.min()) < 0.025 and 0.08 < float(std.max()) < 0.11
    assert float(std.mean()) == pytest.approx(0.02 + 0.08 / 3, abs=0.01)  # faint noise more often
    assert float(std.median()) == pytest.approx(0.02 + 0.08 / 4, abs=0.01)


def test_no_noise_is_none():
    x = torch.full((8, 3, *SIZE), 0.5)
    torch.testing.assert_close(Degradation("gaussian-blur", (0.0, 0.0))(x, _draws()), x)


@pytest.mark.parametrize(
    "task", ["gaussian-blur", "mixture", "super-resolution", "phase-retrieval", "gaussian-blur+jpeg"]
)
def test_rows_do_not_depend_on_how_processes_share_them(task):
    degrade = Degradation(task, (0.0, 0.1))
    x = _x()
    whole = degrade(x, _draws())
    assert whole.shape == x.shape and bool(whole.isfinite().all())
    for size in (2, 4):
        parts = [degrade(x[i : i + size], _draws(slice(i, i + size))) for i in range(0, 8, size)]
        torch.testing.assert_close(torch.cat(parts), whole)


def test_every_step_draws_afresh_and_every_row_its_own():
    degrade = Degradation("random-inpainting", (0.0, 0.0))
    first, second = degrade(_x(), _draws()), degrade(_x(), _draws(step=6))
    assert torch.equal(first, degrade(_x(), _draws()))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0] == 0, first[1] == 0)


def test_refuses_an_unknown_task():
    with pytest.raises(InputError, match="unknown task"):
        Degradation("gausian-blur", (0.0, 0.1))
