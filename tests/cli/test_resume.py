"""Runs that end early are continued: what is done is not done again, what failed is, nothing is half-written."""

import errno
import json
import os
import shutil
import tarfile
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
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
        common += ("--method", "flash(latent-dps)")  # on an untrained model proximal steps amplify rounding
        return flash("evaluate", *common, "--out", tmp_path / "out" / "results.json", *options)

    return run


def test_maps_that_are_missing_are_made_by_a_resumed_run(restore, tmp_path):
    maps = tmp_path / "maps"
    assert restore("--max-in-flight", 4).code == 0
    ended = restore("--resume", "--maps", maps)
    assert ended.code == 0, ended.err
    assert sorted(path.stem for path in maps.iterdir()) == NAMES
    times = {path: path.stat().st_mtime_ns for path in maps.iterdir()}
    (maps / f"{NAMES[2]}.png").unlink()
    assert restore("--resume", "--maps", maps).code == 0
    changed = {path.stem for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {NAMES[2]}


class _Stream:
    """The pipeline's stream, watched, and broken where a test wants it to be."""

    def __init__(self, monkeypatch):
        self.ids, self.diverging, self.interrupt = [], set(), None
        original = FlashPipeline.stream

        def stream(pipeline, batches, **options):
            for n, one in enumerate(original(pipeline, batches, **options)):
                if n == self.interrupt:
                    raise KeyboardInterrupt
                if one.failed is None:  # what could not be read travels along, and is no work
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
    ended = restore()
    assert ended.code == 0 and stream.taken() == NAMES, "without --resume, afresh"
    assert "is replaced" not in ended.err
    ended = restore(inputs=measured / f"{NAMES[1]}.safetensors")
    said = f"results.json of an earlier run is replaced: 4 of its 5 images are not among these ({NAMES[0]} the first)"
    assert ended.code == 0 and ended.err.count(said) == 1 and _results(tmp_path)[0] == [NAMES[1]]
    other = shutil.copytree(measured, tmp_path / "other") / f"{NAMES[1]}.safetensors"
    assert "1 of its 1 images are not" in restore(inputs=other).err, "the same name, of another folder"


def test_what_a_file_holds_says_whether_it_is_done(restore, stream, measured, tmp_path, monkeypatch):
    assert restore().code == 0 and stream.taken() == NAMES
    (tmp_path / "link").symlink_to(measured, target_is_directory=True)
    shutil.copytree(measured, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    for spelled in ("measured", "./measured/", measured / ".." / "measured", "link", tmp_path / "copy"):
        assert restore("--resume", inputs=spelled).code == 0 and stream.taken() == [], spelled
    old = (measured / "image-00.safetensors").stat()
    shutil.copy(measured / "image-01.safetensors", measured / "image-00.safetensors")
    os.utime(measured / "image-00.safetensors", ns=(old.st_atime_ns, old.st_mtime_ns))
    assert restore("--resume").code == 0 and stream.taken() == ["image-00"], "of the same size and time, but another"
    assert restore("--resume", inputs=tmp_path / "copy").code == 0 and stream.taken() == ["image-00"]


def test_records_say_paths_as_they_were_given_and_are_compared_by_the_place(flash, image_folder, tiny_model, tmp_path):
    """Others read a results file too: no path of this machine goes in that the user did not write."""
    with chdir(tmp_path):
        shutil.copytree(image_folder, "images")
        shutil.copytree(tiny_model, "model")
        options = ("--method", "ae", "--limit", 2, "--out", "results.json", "--resume")
        for data, model in (("images", "model"), ("./images/", tmp_path / "model"), (tmp_path / "images", "./model")):
            ended = flash("evaluate", "--data", data, "--model", model, *options)
            assert ended.code == 0, ended.err
            written = json.loads(Path("results.json").read_text())
            assert (written["data"], written["model"]) == ([str(Path(data))], str(model))
        shutil.copytree("images", "others")
        ended = flash("evaluate", "--data", "others", "--model", "model", *options)
        assert ended.code == 2 and "another data" in ended.err


def test_a_true_image_or_a_mask_that_changed_is_noticed(flash, stream, image_folder, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(image_folder, "truth")
    Image.new("L", (48, 40), 255).save("mask.png")
    options = ("--physics", "random-inpainting:mask=mask.png", "--model", tiny_model, "--method", "ae", "--out", "o")
    again = ("restore", image_folder / "image-00.png", *options, "--reference")
    assert flash(*again, "truth").code == 0 and stream.taken() == ["image-00"]
    assert flash(*again, tmp_path / "truth/", "--resume").code == 0 and stream.taken() == []
    shutil.copy("truth/image-01.png", "truth/image-00.png")
    assert flash(*again, "truth", "--resume").code == 0 and stream.taken() == ["image-00"]
    Image.new("L", (48, 40), 0).save("mask.png")
    ended = flash(*again, "truth", "--resume")
    assert ended.code == 2 and "another physics_files mask.png" in ended.err


def test_an_image_that_changed_is_evaluated_again(flash, stream, image_folder, tiny_model, tmp_path):
    for suffix, data in (("folder", tmp_path / "data"), ("shard", tmp_path / "data.tar")):
        stream.taken()
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        shutil.copytree(image_folder, tmp_path / "data")
        options = ("--data", data, "--limit", 3, "--model", tiny_model, "--method", "ae", "--out", tmp_path / suffix)

        def pack():
            with tarfile.open(tmp_path / "data.tar", "w") as tar:
                tar.add(tmp_path / "data", arcname="data")

        pack()
        assert flash("evaluate", *options).code == 0 and len(stream.taken()) == 3
        assert flash("evaluate", *options, "--resume").code == 0 and stream.taken() == []
        shutil.copy(tmp_path / "data" / "image-04.png", tmp_path / "data" / "image-01.png")
        pack()
        assert flash("evaluate", *options, "--resume").code == 0
        assert [Path(name).name for name in stream.taken()] == ["image-01.png"], suffix


@pytest.mark.parametrize("command", ["restore", "evaluate", "degrade", "demo"])
def test_two_runs_at_once_into_one_folder(
    flash, restore, evaluate, stream, image_folder, tiny_model, tmp_path, command
):
    from flashdiffusion.jobs.lock import locked

    out = ("--out", tmp_path / "out")
    run = {
        "restore": restore,
        "evaluate": evaluate,
        "degrade": lambda: flash("degrade", image_folder / "image-00.png", *out),
        "demo": lambda: flash("demo", "--model", tiny_model, *out),
    }[command]
    (tmp_path / "out").mkdir()
    (tmp_path / "again").symlink_to(tmp_path / "out", target_is_directory=True)
    with locked(tmp_path / "again" / ("degrade.json" if command == "degrade" else "results.json")):
        ended = run()
        assert ended.code == 2 and stream.taken() == []
        assert f"is being written by another run (process {os.getpid()} on " in ended.err
    assert run().code == 0 and not list((tmp_path / "out").glob(".*")), "nothing is left of a lock"


def test_an_interrupted_restoration_says_how_to_go_on_and_does(restore, stream, tmp_path):
    method = ("--method", "flash(latent-dps)")  # on an untrained model proximal steps amplify rounding
    stream.interrupt = 3
    ended = restore(*method)
    assert ended.code == 130
    assert ended.err.strip() == "flashdiffusion: interrupted: 3 of 5 images are done; --resume continues"
    done = stream.taken()
    assert _written(tmp_path) == [*(f"{name}.png" for name in done), "results.jsonl"]
    stream.interrupt = None
    ended = restore("--resume", "--json", *method)
    assert ended.code == 0 and sorted(stream.taken() + done) == NAMES
    assert _written(tmp_path) == [*(f"{name}.png" for name in NAMES), "results.json"]
    continued = json.loads(ended.out)["records"]
    at_once = json.loads(restore("--json", *method).out)["records"]
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
    ended = restore("--resume", "--seed", 1, "--trust", 3)
    assert ended.code == 2 and "another seed (0, now 1), given trust (none, now 3.0)" in ended.err
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
