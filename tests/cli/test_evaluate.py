"""Several methods on several tasks into one folder: records, summary, comparisons, images; resumed, and refused."""

import csv
import json

import pytest
from safetensors.torch import save_file

from flashdiffusion import FlashPipeline
from flashdiffusion.cli.options import MethodsOptions
from flashdiffusion.errors import InputError
from lpips_weights import lpips_weights

METHODS = ("--method", "ae", "--method", "flash(latent-dps):steps=20", "--method", "flash(psld)")
TASKS = ("--task", "gaussian-blur", "--task", "nonlinear-blur")


@pytest.fixture
def evaluate(flash, image_folder, tiny_model, tmp_path):
    def run(*options, limit=3):
        common = ("--data", image_folder, "--limit", limit, "--model", tiny_model, "--out", tmp_path / "out")
        return flash("evaluate", *common, *options)

    return run


def test_a_folder_holds_every_cell_and_what_they_come_to(evaluate, tmp_path, tiny_model):
    ended = evaluate(*TASKS, *METHODS, "--steps", 10, "--save-images")
    assert ended.code == 0, ended.err
    assert ended.out.count(f", model {tiny_model}") == 2  # above the table of each task
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    cells = {(cell["task"], cell["method"]): cell for cell in summary["cells"]}
    own = ("ae", "flash(latent-dps):steps=20", "flash(psld)")
    assert [*cells] == [(task, method) for task in TASKS[1::2] for method in own]
    lost = cells.pop(("nonlinear-blur", "flash(psld)"))
    assert lost["images"] == 0 and "psld needs linear degradations" in lost["missing"] and lost["figures"] == {}
    assert "psld needs linear degradations" in (out / "summary.md").read_text() and "left out" in ended.err
    # --steps is for what has no steps of its own.
    steps = {
        name: json.loads((out / f"gaussian-blur--{name}.json").read_text())["settings"].get("steps")
        for name in ("ae", "flash-latent-dps-steps-20", "flash-psld")
    }
    assert steps == {"ae": None, "flash-latent-dps-steps-20": 20, "flash-psld": 10}
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * len(cells) and {(line["task"], line["method"]) for line in lines} == cells.keys()
    for (task, method), cell in cells.items():
        values = [line["psnr"] for line in lines if (line["task"], line["method"]) == (task, method)]
        psnr = cell["figures"]["psnr"]
        assert psnr["mean"] == pytest.approx(sum(values) / 3, rel=1e-5)
        assert min(values) <= psnr["low"] <= psnr["mean"] <= psnr["high"] <= max(values)
        assert f"| {method} | 3 | {psnr['mean']:.2f} [" in (out / "summary.md").read_text()
        folder = out / "images" / task
        assert len([*(folder / "clean").iterdir()]) == len([*(folder / "estimate").iterdir()]) == 3
    assert {one["other"] for one in summary["comparisons"]} == {"ae", "flash(latent-dps):steps=20"}
    assert all(one["images"] == 3 and 0 < one["sign_test"] <= 1 for one in summary["comparisons"])
    assert "a trial, not a result" in (out / "summary.md").read_text()
    table = [*csv.DictReader((out / "summary.csv").read_text().splitlines())]
    assert {(row["task"], row["method"]) for row in table} == cells.keys()


def test_a_folder_is_extended_and_continued(evaluate, tmp_path, monkeypatch):
    assert evaluate("--method", "ae").code == 0
    file = tmp_path / "out" / "gaussian-blur--ae.json"
    before = file.stat().st_mtime_ns
    assert evaluate("--method", "bound").code == 0
    assert file.stat().st_mtime_ns == before
    cells = json.loads((tmp_path / "out" / "summary.json").read_text())["cells"]
    assert [cell["method"] for cell in cells] == ["bound", "ae"]  # what was asked for first
    for options, difference in (
        (("--seed", 1), "seed (0, now 1)"),
        (("--noise-std", 0.1), "noise_std (0.05, now 0.1)"),
    ):
        ended = evaluate("--method", "swinir", *options)
        assert ended.code == 2 and f"holds a run with another {difference}; choose another --out" in ended.err
    assert len(json.loads(file.read_text())["records"]) == 3
    assert evaluate("--method", "ae", "--method", "bound", "--resume", limit=5).code == 0
    assert [len(json.loads(one.read_text())["records"]) for one in sorted(file.parent.glob("*--*.json"))] == [5, 5]


def test_an_interrupt_leaves_the_summary_of_what_is_finished(evaluate, tmp_path, monkeypatch):
    original = FlashPipeline.stream

    def stream(pipeline, batches, **options):
        if options["solver"] == "latent-dps":
            raise KeyboardInterrupt
        return original(pipeline, batches, **options)

    monkeypatch.setattr(FlashPipeline, "stream", stream)
    assert evaluate("--method", "ae", "--method", "flash(latent-dps)").code == 130
    cells = json.loads((tmp_path / "out" / "summary.json").read_text())["cells"]
    assert [cell["method"] for cell in cells] == ["ae"]


def test_records_of_images_that_are_not_asked_for_stand(evaluate, tmp_path):
    assert evaluate("--method", "ae", limit=4).code == 0
    assert evaluate("--method", "ae", "--save-images", "--resume", limit=2).code == 0
    results = json.loads((tmp_path / "out" / "gaussian-blur--ae.json").read_text())
    assert len(results["records"]) == 4
    assert len([*(tmp_path / "out" / "images" / "gaussian-blur" / "ae").iterdir()]) == 2


def test_distances_of_whole_runs(evaluate, tmp_path):
    ended = evaluate("--method", "ae", "--distance", "fd_alex", "--distance", "fid")
    assert ended.code == 0 and "fd_alex: it needs the LPIPS weights" in (tmp_path / "out" / "summary.md").read_text()
    save_file(lpips_weights("alex"), tmp_path / "alex.safetensors")
    options = ("--method", "ae", "--distance", "fd_alex", "--lpips", tmp_path / "alex.safetensors")
    out = tmp_path / "out"
    (out / "gaussian-blur--ae.json").unlink()
    assert evaluate(*options).code == 0
    cell = json.loads((out / "summary.json").read_text())["cells"][0]
    assert cell["distances"]["fd_alex"] == {"value": None, "images": 3, "missing": "fd_alex needs 257 images, got 3"}
    assert "fd_alex needs 257 images, got 3" in (out / "summary.md").read_text()
    features = sorted((out / "gaussian-blur--ae.features").iterdir())
    times = {file: file.stat().st_mtime_ns for file in features}
    features[1].unlink()
    assert evaluate(*options, "--resume").code == 0
    assert [file.stat().st_mtime_ns != times[file] for file in features] == [False, True, False]
    ended = evaluate(*options[:2], "--distance", "beauty")
    assert ended.code == 2 and "unknown metric of runs 'beauty'" in ended.err


def test_what_cannot_be_is_refused_before_the_first_image(evaluate, tmp_path):
    for options, reason in (
        (("--method", "ae", "--method", "psld:guidance=-1"), "guidance is -1.0"),
        (("--method", "ae", "--method", "bound", "--guidance", 2), "--guidance: used by none of the methods given"),
        (("--method", "psld:guidance"), "guidance"),
        (("--method", "psld:beauty=1"), "unknown setting 'beauty'"),
        (("--method", "ae", "--method", "AE"), "method ae is given twice"),
        (("--task", "gaussian-blur", "--task", "gaussian-blur"), "task gaussian-blur is given 2 times"),
        (("--task", "blurr"), "unknown task 'blurr'"),
        (("--method", "dps"), "dps works on pixels"),
    ):
        ended = evaluate(*options)
        assert ended.code == 2 and reason in ended.err, ended.err
        assert not [*(tmp_path / "out").glob("*--*")]


def test_settings_go_to_the_methods_that_use_them():
    ae, psld, resample = MethodsOptions(
        method=["ae", "psld:guidance=3", "resample"], set=["guidance=2", "gamma=4"], steps=7
    ).each()
    assert (ae.given, psld.given) == ({}, {"guidance": 3.0, "steps": 7})
    assert resample.given == {"gamma": 4.0, "steps": 7}
    assert [one.label for one in (ae, psld, resample)] == ["ae", "psld:guidance=3.0", "resample"]
    with pytest.raises(InputError, match="--gamma: used by none"):
        MethodsOptions(method=["ae", "psld"], gamma=1.0).each()
