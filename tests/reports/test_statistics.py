"""Intervals hold the mean as often as they say; comparisons count what is better, whichever way a metric runs."""

from pathlib import Path

import numpy as np
import pytest

from flashdiffusion import InputError
from flashdiffusion.reports import Cell, compare_cells, interval
from flashdiffusion.reports.cells import cell_file, file_name, image_file
from flashdiffusion.reports.summary import Summary


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


def test_images_of_one_name_and_other_content_are_not_compared():
    def cell(method: str, values: dict[str, tuple[float, str | None]]) -> Cell:
        rows = {id: {"id": id, "lpips": value, "digest": digest} for id, (value, digest) in values.items()}
        return Cell("gaussian-blur", method, Path(f"{method}.json"), records=rows)

    one = cell("a", {"x": (0.1, "d1"), "y": (0.1, "d2"), "z": (0.1, None)})
    found = compare_cells(one, cell("b", {"x": (0.2, "d1"), "y": (0.9, "other"), "z": (0.2, "d3")}), "lpips")
    assert found.images == 2 and found.difference == pytest.approx(-0.1)


def test_a_cell_of_some_of_its_images():
    values = {"x": 0.1, "y": 0.3, "z": 0.8}
    part = _cell("a", values).of({"x", "y", "not there"})
    assert [*part.records] == ["x", "y"] and part.mean["lpips"] == pytest.approx(0.2) and part.mean["images"] == 2
    assert _cell("a", values).of(set()).mean == {}


def test_files_of_images_are_one_for_every_id():
    ids = ["a/1.png", "a_1.png", "a%2F1.png", "x" * 300, "x" * 299 + "y", "é" * 180]
    names = [file_name(id) for id in ids]
    assert len(set(names)) == len(ids) and all(len(name.encode()) <= 200 and "/" not in name for name in names)
    folder = Path("out")
    shared = [image_file(cell_file(folder, "t", m), "t", m, "1.png", "clean") for m in ("psld", "ae")]
    alone = [image_file(folder / name, "t", "psld", "1.png", "restored") for name in ("a.json", "b.json")]
    assert shared[0] == shared[1] and len({shared[0], *alone}) == 3


def test_methods_are_compared_with_the_first_that_was_measured(tmp_path):
    lost = Cell("gaussian-blur", "psld", tmp_path / "x.json", missing="psld is for linear operators")
    summary = Summary([lost, _cell("a", {"x": 0.1, "y": 0.2}), _cell("b", {"x": 0.3, "y": 0.3})])
    summary.write(tmp_path)
    page = (tmp_path / "summary.md").read_text()
    assert "| b - a | LPIPS | +0.15000 [" in page and "psld: left out: psld is for linear operators" in page
