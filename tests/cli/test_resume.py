"""Runs that end early are continued: what is done is not done again, what failed is, nothing is half-written."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flashdiffusion.pipeline import FlashPipeline

NAMES = [f"image-{i:02d}" for i in range(5)]


@pytest.fixture
def measured(flash, tmp_path, image_folder) -> Path:
    inputs = [image_folder / f"{name}.png" for name in NAMES]
    assert flash("degrade", *inputs, "--size", 32, "--out", tmp_path / "measured").code == 0
    return tmp_path / "measured"


@pytest.fixture
def restore(flash, measured, tiny_model, tmp_path):
    def run(*options, inputs=measured):
        return flash("restore", inputs, "--model", tiny_model, "--steps", 20, "--out", tmp_path / "out", *options)

    return run


@pytest.fixture
def evaluate(flash, image_folder, tiny_model, tmp_path):
    def run(*options):
        common = ("--data", image_folder, "--limit", 5, "--model", tiny_model, "--steps", 20)
        return flash("evaluate", *common, "--out", tmp_path / "out" / "results.json", *options)

    return run


class _Stream:
    """The pipeline's stream, watched, and broken where a test wants it to be."""

    def __init__(self, monkeypatch):
        self.ids, self.diverging, self.interrupt = [], set(), None
        original = FlashPipeline.stream

        def stream(pipeline, batches, **options):
            for n, one in enumerate(original(pipeline, batches, **options)):
                if n == self.interrupt:
                    raise KeyboardInterrupt
                self.ids.append(one.id)
                yield replace(one, image=None, failed="it diverged") if one.id in self.diverging else one

        monkeypatch.setattr(FlashPipeline, "stream", stream)

    def taken(self):
        ids, self.ids = sorted(self.ids), []
        return ids


@pytest.fixture
def stream(monkeypatch):
    return _Stream(monkeypatch)


def _results(tmp_path):
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    return [row["id"] for row in results["records"]], [(row["id"], row["reason"]) for row in results["failed"]]


def _check_alike(some, others):
    """But for what depends on the company: time, and arithmetic, which is counted on the first image of a kind."""
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds", "gflop"}:
            assert one[key] == (pytest.approx(other[key], rel=1e-4) if isinstance(one[key], float) else other[key])


def _written(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").iterdir())


def test_only_missing_and_failed_images_are_restored(restore, stream, measured, tmp_path):
    broken = measured / "image-02.safetensors"
    good = shutil.copy(broken, tmp_path / "good.safetensors")
    with safe_open(broken, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(broken) | {"y": torch.full((3, 32, 32), float("nan"))}, broken, metadata)
    stream.diverging = {"image-04"}
    ended = restore()
    assert ended.code == 1 and f"failed: {broken}: NaN or infinite values" in ended.err
    assert "failed: image-04: it diverged\n" in ended.err
    records, failed = _results(tmp_path)
    assert records == [NAMES[0], NAMES[1], NAMES[3]] and [name for name, _ in failed] == ["image-02", "image-04"]
    assert stream.taken() == [NAMES[0], NAMES[1], NAMES[3], NAMES[4]]

    stream.diverging = set()
    assert restore("--resume").code == 1
    assert stream.taken() == ["image-04"], "of the two that failed, the other is still broken"
    shutil.copy(good, broken)
    (tmp_path / "out" / "image-00.png").unlink()
    ended = restore("--resume", "--json")
    assert ended.code == 0 and stream.taken() == ["image-00", "image-02"]
    assert _results(tmp_path) == (NAMES, []) and [r["id"] for r in json.loads(ended.out)["records"]] == NAMES
    assert restore("--resume").code == 0 and stream.taken() == []
    assert restore().code == 0 and stream.taken() == NAMES, "without --resume, afresh"


def test_a_file_of_the_same_name_from_elsewhere_is_restored_anew(restore, stream, measured, tmp_path):
    assert restore().code == 0 and stream.taken() == NAMES
    shutil.copytree(measured, tmp_path / "elsewhere")
    assert restore("--resume", inputs=tmp_path / "elsewhere").code == 0
    assert stream.taken() == NAMES, "its records are of other files"


def test_an_interrupted_restoration_says_how_to_go_on_and_does(restore, stream, tmp_path):
    stream.interrupt = 3
    ended = restore()
    assert ended.code == 130
    assert ended.err.strip() == "flashdiffusion: interrupted: 3 of 5 images are done; --resume continues"
    done = stream.taken()
    assert _written(tmp_path) == [*(f"{name}.png" for name in done), "results.jsonl"]
    stream.interrupt = None
    ended = restore("--resume", "--json")
    assert ended.code == 0 and sorted(stream.taken() + done) == NAMES
    assert _written(tmp_path) == [*(f"{name}.png" for name in NAMES), "results.json"]
    continued = json.loads(ended.out)["records"]
    at_once = json.loads(restore("--json").out)["records"]
    _check_alike(at_once, continued)


@pytest.mark.parametrize("full", ["image", "journal", "results"])
def test_a_full_disk_ends_the_run_with_nothing_half_written(restore, stream, tmp_path, monkeypatch, full):
    from flashdiffusion.jobs import journal
    from flashdiffusion.jobs.journal import Journal

    count = [0]

    def fails(original, nth):
        def call(*arguments):
            count[0] += 1
            if count[0] == nth:
                raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))
            return original(*arguments)

        return call

    with monkeypatch.context() as patch:
        if full == "image":
            patch.setattr(Path, "write_bytes", fails(Path.write_bytes, 4))
        elif full == "journal":
            patch.setattr(Journal, "_write", fails(Journal._write, 5))  # the first line is what it is about
        else:
            patch.setattr(journal, "write_json", fails(journal.write_json, 1))
        ended = restore()
    done = 5 if full == "results" else 3
    assert ended.code == 2 and ended.out == ""
    assert f"No space left on device; {done} of 5 images are done: make room, then --resume continues" in ended.err
    images = 5 if full == "results" else 4 if full == "journal" else 3
    written = _written(tmp_path)
    assert len([name for name in written if name.endswith(".png")]) == images
    assert "results.json" not in written and not any("tmp" in name for name in written)
    stream.taken()
    assert restore("--resume").code == 0 and len(stream.taken()) == 5 - done
    assert _results(tmp_path) == (NAMES, [])


def test_other_settings_are_not_mixed(restore, stream, tmp_path):
    assert restore().code == 0
    before = (tmp_path / "out" / "results.json").read_bytes()
    stream.taken()
    ended = restore("--resume", "--seed", 1, "--eta", 2)
    assert ended.code == 2 and "another seed (0, now 1), given eta (none, now 2.0)" in ended.err
    assert stream.taken() == [] and (tmp_path / "out" / "results.json").read_bytes() == before
    assert restore("--resume", "--max-in-flight", 2).code == 0  # changes nothing in an image


def test_records_of_other_images_are_kept(restore, flash, tiny_model, measured, tmp_path):
    options = ("--model", tiny_model, "--steps", 20, "--out", tmp_path / "out")
    assert flash("restore", measured / "image-03.safetensors", *options).code == 0
    assert flash("restore", measured / "image-01.safetensors", *options, "--resume").code == 0
    assert _results(tmp_path) == (["image-03", "image-01"], [])
    assert restore("--resume").code == 0
    assert _results(tmp_path) == (NAMES, [])


def test_an_evaluation_is_continued(evaluate, stream, tmp_path):
    names = [f"{name}.png" for name in NAMES]
    stream.diverging = {names[1]}
    ended = evaluate()
    assert ended.code == 1 and ended.err == f"flashdiffusion: failed: {names[1]}: it diverged\n"
    assert _results(tmp_path) == ([name for name in names if name != names[1]], [(names[1], "it diverged")])
    stream.taken()
    stream.diverging = set()
    assert evaluate("--resume").code == 0 and stream.taken() == [names[1]]
    assert _results(tmp_path) == (names, [])
    continued = json.loads((tmp_path / "out" / "results.json").read_text())
    stream.interrupt = 2
    ended = evaluate()
    assert ended.code == 130 and "2 of 5 images are done; --resume continues" in ended.err
    done, stream.interrupt = stream.taken(), None
    ended = evaluate("--resume", "--noise-std", 0.1)
    assert ended.code == 2 and "another noise_std (0.05, now 0.1)" in ended.err
    assert evaluate("--resume").code == 0 and sorted(stream.taken() + done) == names
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    _check_alike(again["records"], continued["records"])
    assert again["mean"]["psnr"] == pytest.approx(continued["mean"]["psnr"], rel=1e-4)


def test_images_of_equal_names_are_told_apart(flash, tmp_path, image_folder, tiny_model, stream):
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(image_folder / "image-00.png", again)
    data = ("--data", again, "--data", image_folder, "--limit", 3, "--method", "ae", "--model", tiny_model)
    out = ("--out", tmp_path / "out" / "results.json")
    assert flash("evaluate", *data, *out).code == 0
    names = ["image-00.png", "image-00.png-2", "image-01.png"]
    assert _results(tmp_path) == (names, []) and len(stream.taken()) == 3
    assert flash("evaluate", *data, *out, "--resume").code == 0 and stream.taken() == []
    first, second, _ = json.loads((tmp_path / "out" / "results.json").read_text())["records"]
    assert first["psnr"] == second["psnr"], "the name decides nothing"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--engine", "spark"), "unknown engine 'spark'"),
        (("--workers", 2), "--workers: for --engine ray"),
        (("--address", "auto"), "--address: for --engine ray"),
    ],
)
def test_an_engine_that_cannot_be(restore, options, reason):
    ended = restore(*options)
    assert ended.code == 2 and reason in ended.err
