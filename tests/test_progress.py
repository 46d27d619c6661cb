"""Progress of long runs: lines off a terminal, a bar on one, nothing of short ones."""

import io
import re
import sys

import pytest
import torch

from flashdiffusion import Denoising, Operator, Settings, progress
from flashdiffusion.data import save_image
from flashdiffusion.engine.batch import Batch, Failed
from flashdiffusion.engine.options import StreamOptions
from flashdiffusion.engine.progress import Progress
from flashdiffusion.engine.stream import Stream
from flashdiffusion.progress import Display, Done, tracked
from local_model import local_pipeline


@pytest.fixture
def every(monkeypatch):
    """Let a line follow each change."""
    monkeypatch.setattr(progress, "EVERY", 0.0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_off_a_terminal_a_line_comes_every_thirty_seconds(capsys):
    times = iter([100.0, 120.0, 129.0, 131.0, 150.0, 161.0, 190.9, 200.0])
    with Display("restoring", "step", clock=lambda: next(times)) as display:
        for count in range(7):
            display.show(Done(count, 8, f"{count} of 8 images", count / 8))
    assert capsys.readouterr().err.splitlines() == [
        "flashdiffusion: restoring: 2 of 8 images, 31 s, about 93 s left",
        "flashdiffusion: restoring: 4 of 8 images, 61 s, about 61 s left",
        "flashdiffusion: restoring: 6 of 8 images, 100 s, about 33 s left",
    ]


def test_what_is_left_is_not_said_before_it_is_known(capsys, every):
    with Display("restoring", "step") as display:
        display.show(Done(0, 8, "0 images", 0.0))
    assert capsys.readouterr().err == "flashdiffusion: restoring: 0 images, 0 s\n"


def test_a_terminal_has_a_bar_and_no_lines(monkeypatch, every):
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Display("restoring", "step") as display:
        display.show(Done(3, 8, "1 of 2 images", 0.5))
        display.show(Done(8, 8, "2 of 2 images", 1.0))
    shown = sys.stderr.getvalue()
    assert "8/8" in shown and "flashdiffusion:" not in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_is_shown_unless_it_is_wanted(monkeypatch, every, terminal):
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    with Display("restoring", "step", wanted=False) as display:
        display.show(Done(8, 8, "2 of 2 images", 1.0))
    assert sys.stderr.getvalue() == ""


def test_what_is_measured_is_counted(capsys, every):
    assert [*tracked("abc", 3, "measuring")] == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(", ")[0] for line in lines] == [f"flashdiffusion: measuring: {n} of 3 images" for n in "123"]


def test_what_an_earlier_run_did_is_no_measure_of_time(capsys, every):
    times = iter([0.0, 10.0])
    with Display("training", "%", clock=lambda: next(times), share=0.5) as display:
        display.show(Done(75, 100, "step 9", 0.75, "loss 1"))
    assert capsys.readouterr().err == "flashdiffusion: training: step 9, 10 s, about 10 s left\n"


def _picture(size):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))


def _stream(batches, total, **options):
    """What a stream tells of itself, and how many images it gives."""
    told = []
    options = StreamOptions("latent-dps", "flash", progress=Progress(total, told.append), **options)
    return told, len([*Stream(local_pipeline(), options).run(batches)])


def test_a_large_picture_is_counted_by_its_tiles(tmp_path):
    batch = Batch(["a"], _picture((92, 140)), Denoising(0.1), Settings(steps=3), kept=[tmp_path / "kept"])
    told, given = _stream([batch], 1, tile=48, max_in_flight=2)
    counts = [int(re.fullmatch(r"0 of 1 image, (\d+) of 12 tiles of a", one.text)[1]) for one in told[:-1]]
    assert counts[0] == 0 and counts == sorted(counts) and {*counts} == {*range(12)}
    assert given == 1 and told[-1].text == "1 of 1 image" and told[-1].share == pytest.approx(1)
    shares = [one.share for one in told]
    assert 0 < shares[0] < 0.2
    # Of a run that goes on, what is left is estimated by what it does itself.
    for name in ("0-0", "1-1", "2-2"):
        (tmp_path / "kept" / f"{name}.safetensors").unlink()
    again, _ = _stream([batch], 1, tile=48, max_in_flight=1)
    first = next(one for one in again if "9 of 12" in one.text)
    assert 0 < first.share < 0.5 and again[-1].share == pytest.approx(1)


def test_what_is_left_of_many_images_follows_from_their_steps():
    physics = Denoising(0.1)
    bad = _picture((24, 24))
    bad[0, 0, 0, 0] = torch.nan
    batches = [Failed("x", "gone"), Batch(["bad"], bad, physics)]
    batches += [Batch([name], _picture((24, 24)), physics, Settings(steps=4)) for name in "abcd"]
    told, given = _stream(iter(batches), 6, max_in_flight=1)
    assert given == 6 and told[-1].text == "6 of 6 images" and told[-1].share == pytest.approx(1)
    assert 0 < next(one for one in told if one.count).share < 0.5
    assert all(0 <= one.share <= 1 for one in told)


def test_an_image_that_fails_on_its_way_leaves_nothing_to_wait_for():
    calls = []

    def breaks(x):
        calls.append(len(x))
        return x * (torch.nan if len(calls) > 4 else 1)

    batches = [Batch(["bad"], _picture((24, 24)), Operator(breaks, noise_std=0.1), Settings(steps=4))]
    batches += [Batch([name], _picture((24, 24)), Denoising(0.1), Settings(steps=4)) for name in "ab"]
    stream, told = [], []
    options = StreamOptions("latent-dps", "flash", progress=Progress(3, told.append), max_in_flight=1)
    stream = [*Stream(local_pipeline(), options).run(iter(batches))]
    assert [one.failed is None for one in sorted(stream, key=lambda one: one.id)] == [True, True, False]
    assert int(next(one for one in stream if one.failed).start_step) > 0  # it had a start
    assert told[-1].count == told[-1].total and told[-1].share == pytest.approx(1)


def test_without_a_number_of_images_what_is_left_is_not_estimated():
    told, _ = _stream([Batch(["a"], _picture((24, 24)), Denoising(0.1), Settings(steps=3))], None)
    assert {one.share for one in told} == {0.0} and told[-1].text == "1 image"


@pytest.mark.parametrize("command", ["restore", "evaluate"])
def test_long_runs_of_commands_say_how_far_they_are(flash, tmp_path, image_folder, tiny_model, every, command):
    options = {
        "restore": ("restore", image_folder / "image-00.png", "--physics", "gaussian-blur:std=1"),
        "evaluate": ("evaluate", "--data", image_folder, "--limit", 1),
    }[command]
    ended = flash(*options, "--steps", 3, "--model", tiny_model, "--device", "cpu", "--out", tmp_path / "out")
    assert ended.code == 0
    assert "flashdiffusion: restoring: 0 of 1 image, " in ended.err
    assert re.search(r"^flashdiffusion: restoring: 1 of 1 image, \d+ s, about 0 s left$", ended.err, re.MULTILINE)


def test_severities_are_counted_in_images_and_tiles(flash, tmp_path, every):
    local_pipeline().save_pretrained(tmp_path / "model")
    save_image(_picture((92, 140))[0], tmp_path / "large.png")
    ended = flash("severity", tmp_path / "large.png", "--model", tmp_path / "model", "--device", "cpu", "--tile", 48)
    assert ended.code == 0
    lines = [line for line in ended.err.splitlines() if "measuring" in line]
    assert [line.split(", ")[1] for line in lines[:-1]] == [f"{n} of 12 tiles of large" for n in range(1, 12)]
    assert re.fullmatch(r"flashdiffusion: measuring: 1 of 1 image, \d+ s, about 0 s left", lines[-1])


def test_short_runs_say_nothing(flash, monkeypatch, tmp_path, image_folder, tiny_model):
    monkeypatch.setattr(progress, "EVERY", 30.0)
    options = ("--physics", "gaussian-blur:std=1", "--model", tiny_model, "--device", "cpu")
    ended = flash("restore", image_folder / "image-00.png", *options, "--out", tmp_path / "out")
    assert ended.code == 0 and "restoring:" not in ended.err


def test_samples_are_parts_of_images():
    batch = Batch(["a"], _picture((24, 24)), Denoising(0.1), Settings(steps=3), samples=4)
    told, given = _stream([batch, Batch(["b"], _picture((24, 24)), Denoising(0.1), Settings(steps=3))], 2)
    assert given == 5 and told[-1].text == "2 of 2 images" and told[-1].share == pytest.approx(1)
    assert {one.text for one in told} == {f"{n} of 2 images" for n in range(3)}


def test_tiles_that_a_failed_picture_is_not_cut_into_are_not_waited_for():
    bad = _picture((92, 240))
    bad[:, :, :40, :40] = torch.nan  # its first tile has no start
    named = {"bad": bad, "good": _picture((24, 24))}
    batches = [Batch([name], y, Denoising(0.1), Settings(steps=2)) for name, y in named.items()]
    told, given = _stream(iter(batches), 2, tile=48, max_in_flight=1)
    assert given == 2 and told[-1].text == "2 of 2 images" and told[-1].share == pytest.approx(1)
