"""Intervals hold the mean as often as they say; comparisons count what is better, whichever way a metric runs."""

from pathlib import Path

import numpy as np
import pytest

from flashdiffusion import InputError
from flashdiffusion.reports import Cell, compare_cells, interval


def _cell(method: str, values: dict[str, float | None], task: str = "gaussian-blur", metric: str = "lpips") -> Cell:
    return Cell(task, method, Path(f"{method}.json"), records={id: {"id": id, metric: v} for id, v in values.items()})


def test_the_interval_holds_the_mean_in_about_95_of_100():
    generator = np.random.default_rng(3)
    held = 0
    for seed in range(100):
        low, high = interval(generator.exponential(size=40), seed)
        held += low <= 1 <= high
    assert 85 <= held <= 100
    assert interval([2.0, 2.0]) == (2.0, 2.0)
    assert interval([1.0, 2.0, 4.0], seed=1) == interval([1.0, 2.0, 4.0], seed=1)
    with pytest.raises(InputError, match="no values"):
        interval([])


@pytest.mark.parametrize(("metric", "sign"), [("lpips", -1), ("psnr", 1)])
def test_what_is_better_is_counted(metric, sign):
    others = {str(i): 0.2 for i in range(10)}
    own = {str(i): 0.2 + sign * (0.01 + 0.001 * i if i < 8 else -0.001) for i in range(9)} | {
        "9": 0.2,
        "only here": 0.9,
    }
    found = compare_cells(_cell("a", own, metric=metric), _cell("b", others, metric=metric), metric)
    assert (found.images, found.wins, found.losses) == (10, 8, 1) and found.win_rate == 0.8
    expected = sign * (sum(0.01 + 0.001 * i for i in range(8)) - 0.001) / 10
    assert found.difference == pytest.approx(expected) and found.low < expected < found.high
    assert found.better and found.sign_test == pytest.approx(2 * (9 + 1) / 2**9)
    back = compare_cells(_cell("b", others, metric=metric), _cell("a", own, metric=metric), metric)
    assert not back.better and (back.wins, back.losses) == (1, 8) and back.difference == pytest.approx(-expected)


def test_what_cannot_be_compared():
    one = _cell("a", {"x": 0.1, "y": None, "z": float("nan")})
    assert compare_cells(one, _cell("b", {"y": 0.2, "z": 0.1}), "lpips") is None
    same = compare_cells(one, one, "lpips")
    assert not same.better and same.sign_test == 1 and (same.low, same.high) == (0, 0)
    with pytest.raises(InputError, match="expected the same task"):
        compare_cells(one, _cell("b", {"x": 0.2}, task="denoising"), "lpips")
    with pytest.raises(InputError, match="metric"):
        compare_cells(one, one, "beauty")
