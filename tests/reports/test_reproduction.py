"""The paper's tables and figures on a tiny model: every one is made, from what it says, and not measured twice."""

import json
from pathlib import Path

import pytest
from PIL import Image

from flashdiffusion import FlashPipeline
from flashdiffusion.metrics import METRICS
from flashdiffusion.reports import Cell
from flashdiffusion.reports.reproduction import TARGETS
from flashdiffusion.reports.reproduction.target import paper, wide
from flashdiffusion.reports.tables import Table

FILES = {
    "table1": {"table1", "gains", "paper"},
    "table2": {"table2", "gains", "paper"},
    "table3": {"table3", "figure"},
    "table4": {"table4", "paper"},
    "table5": {"table5", "paper"},
    "table6": {"table6", "paper"},
    "fig6": {"table", "figure"},
    "fig9": {"table", "figure"},
    "fig12": {"table", "figure"},
}


class Made:
    """A study whose figures are made up: LPIPS falls with a cell's place, a severity is an image's number."""

    quick = True

    def __init__(self):
        self.asked: list[tuple[str, str, float, str | None]] = []

    def evaluate(self, methods, tasks, noise_std=0.05, told=None):
        self.asked += [(task, method, noise_std, told) for task in tasks for method in methods]
        return [self._cell(task, method, n) for task in tasks for n, method in enumerate(methods)]

    def _cell(self, task, method, place):
        if "psld" in method and task == "nonlinear-blur":
            return Cell(task, method, Path("x.json"), missing="psld is for linear operators")
        rows = {}
        for n in range(8):
            row = {
                "id": f"{n}",
                "degradation": {"std": 0.3 * n},
                "severity": 0.01 * (n + 1),
                "start_step": 10 * (n + 1),
            }
            row |= {"psnr": 20 + place + n / 8, "ssim": 0.5, "lpips": 0.5 - 0.01 * place + n / 80, "nfe": place + n}
            rows[row["id"]] = row
        mean = {
            key: sum(row[key] for row in rows.values()) / 8 for key in ("psnr", "ssim", "lpips", "nfe", "start_step")
        }
        return Cell(task, method, Path("x.json"), mean=mean, records=rows)

    def order(self, noise_std=0.05, told=None):
        self.asked.append(("ordering", "", noise_std, told))
        curves = [[0.01, 0.02, 0.04, 0.03], [0.01, 0.02, 0.03, 0.04]]
        return {
            "ordering_accuracy": 11 / 12,
            "levels": [{"std": float(n), "mean_severity": 0.0} for n in range(4)],
            "records": [{"id": f"{n}", "accuracy": 1.0 - n / 6, "severities": row} for n, row in enumerate(curves)],
        }

    def plain(self, solver):
        return solver

    def own(self, method):
        return method

    def fixed(self, start_step):
        return f"ccdf(latent-dps):start_step={start_step}"


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_writes_what_it_shows(tmp_path, name):
    study = Made()
    written = {path.name for path in TARGETS[name].make(study).write(tmp_path, "As measured.")}
    expected = FILES.get(name, {"figure"})
    assert {path.rsplit(".", 1)[0] for path in written} == expected | {"data", "caption"}
    assert written == {path.name for path in tmp_path.iterdir()} and study.asked
    json.loads((tmp_path / "data.json").read_text())
    assert (tmp_path / "caption.md").read_text().endswith(" As measured.\n")
    if "figure" in expected:
        with Image.open(tmp_path / "figure.png") as image:
            assert image.width > 400 and len(image.convert("L").getcolors(2**16)) > 10
        assert (tmp_path / "figure.svg").read_text().count("<path") > 10


def test_gains_are_counted_where_both_have_figures():
    produced = TARGETS["table1"].make(Made())
    # Of 16 cells PSLD has none on nonlinear blur; Flash(X) comes after X, so it is better in all others.
    assert "better mean PSNR and LPIPS in 15 of 15 cells" in produced.caption
    assert len(produced.tables["gains"].rows) == 30
    row = dict(zip(produced.tables["paper"].headings, produced.tables["paper"].rows[0], strict=True))
    assert row["varying blur: PSNR"] == "23.69" and row["varying blur: NFE"] == "1000.0"


def test_the_fixed_start_is_the_mean_of_the_adaptive_ones():
    study = Made()
    TARGETS["table2"].make(study)
    assert ("gaussian-blur", "ccdf(latent-dps):start_step=45", 0.05, None) in study.asked


def test_ordering_of_a_wrong_encoder_by_the_range_of_blur():
    study = Made()
    produced = TARGETS["table3"].make(study)
    # Of the first curve one pair of six is wrong, the last one; from 0.3 on one of three.
    assert produced.data == {"0 to 1": pytest.approx(11 / 12), "0.3 to 1": pytest.approx(5 / 6)}
    assert study.asked == [("ordering", "", 0.05, "nonlinear-blur")]
    assert produced.tables["table3"].rows[0][2] == "0.7704"


def test_tables_are_escaped():
    table = Table(["a_b", "50 %"], [["x|y", "1 & 2"]], caption="100 % {of} it")
    assert r"x\|y" in table.markdown() and table.csv() == "a_b,50 %\nx|y,1 & 2\n"
    assert r"a\_b & 50 \% \\" in table.latex() and r"1 \& 2" in table.latex() and r"\{of\}" in table.latex()
    assert wide(paper("table5"), ("psnr",)).rows[0] == ["steps=1000,delta=1", "29.16"]


def test_what_was_measured_is_not_measured_again(flash, image_folder, tiny_model, tmp_path, monkeypatch):
    common = ("--data", image_folder, "--model", tiny_model, "--out", tmp_path / "out", "--quick")
    ended = flash("reproduce", "fig10", "table3", *common)
    assert ended.code == 0, ended.err
    out = tmp_path / "out" / "quick"
    assert {path.name for path in out.iterdir()} == {"runs", "fig10", "table3"}
    assert "first 2 images" in (out / "fig10" / "caption.md").read_text()
    assert "LPIPS was not measured" in (out / "table3" / "caption.md").read_text()
    data = json.loads((out / "fig10" / "data.json").read_text())
    assert [*data] == ["0.05", "0.3", "0.6"] and all(len(starts) == 2 for starts in data.values())
    monkeypatch.setattr(FlashPipeline, "stream", lambda *_, **__: pytest.fail("an image was restored"))
    monkeypatch.setattr(FlashPipeline, "severity", lambda *_, **__: pytest.fail("a severity was measured"))
    assert flash("reproduce", "fig10", "table3", *common).code == 0
    assert json.loads((out / "fig10" / "data.json").read_text()) == data
    refused = flash("reproduce", "table3", *common, "--seed", 1)
    assert refused.code == 2 and "ordering.json holds a run with another seed (0, now 1)" in refused.err


def test_fewer_images_than_were_measured_before(flash, image_folder, tiny_model, tmp_path):
    common = ("--data", image_folder, "--model", tiny_model, "--out", tmp_path, "--quick")
    for limit in (3, 2):
        assert flash("reproduce", "fig10", "fig3", *common, "--limit", limit).code == 0
        starts = json.loads((tmp_path / "quick" / "fig10" / "data.json").read_text())["0.05"]
        curves = json.loads((tmp_path / "quick" / "fig3" / "data.json").read_text())["severities"]
        assert len(starts) == len(curves) == limit


def test_images_that_cannot_be_read(flash, tiny_model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").write_text("words")
    for name in ("fig10", "fig3"):
        ended = flash("reproduce", name, "--data", tmp_path / "in", "--model", tiny_model, "--out", tmp_path, "--quick")
        assert ended.code == 2 and "flashdiffusion: error:" in ended.err and "read" in ended.err, ended.err


def test_an_unknown_table(flash, image_folder, tmp_path):
    ended = flash("reproduce", "table9", "--data", image_folder, "--out", tmp_path)
    assert ended.code == 2 and "unknown table or figure 'table9'" in ended.err
    assert set(METRICS) >= {"psnr", "ssim", "lpips"}
