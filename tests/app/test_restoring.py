"""What a click runs: its commands give the same pixels, it can be stopped, and it fails alone."""

import io
import shlex
import zipfile
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flashdiffusion import FlashPipeline
from flashdiffusion.app.choice import Choice, folder_of
from flashdiffusion.app.clicks import EXAMPLES, PREVIEW, Clicks, example, words
from flashdiffusion.app.cost import cost_from_noise
from flashdiffusion.app.damages import FACES, PHOTOGRAPHS
from flashdiffusion.app.limits import Limits
from flashdiffusion.app.restoring import Models, restore
from flashdiffusion.app.run import FAULT, Failure, Run, Runs, Stopped
from flashdiffusion.app.told import Begun, Click, Done, Step
from flashdiffusion.data import load_image
from flashdiffusion.errors import InputError
from flashdiffusion.methods import Settings
from flashdiffusion.physics import GaussianBlur
from flashdiffusion.seeds import image_generator
from flashdiffusion.solvers import Problem

PORTRAIT = Path(str(files("flashdiffusion") / "assets" / "portrait.png"))


@pytest.fixture(scope="module")
def models():
    return Models("cpu")


@pytest.fixture(scope="module")
def photograph(tmp_path_factory) -> Path:
    """A piece of the bundled photograph, 72x56."""
    path = tmp_path_factory.mktemp("photograph") / "piece.png"
    with Image.open(PORTRAIT.with_name("photograph.jpg")) as image:
        image.crop((280, 260, 352, 316)).save(path)
    return path


def _begin(clicks: Clicks, visitor: str, picture: Path, choice: Choice) -> Run:
    return clicks.begin(visitor, clicks.runs.ask(visitor), str(picture), None, choice)


def _run(models: Models, choice: Choice, folder: Path, picture: Path) -> list:
    told: list = []
    stream = io.BytesIO()
    with Image.open(picture) as image:
        layer = Image.new("RGBA", image.size)
    layer.paste((225, 29, 72, 255), (30, 20, 44, 34))
    layer.save(stream, "PNG")
    restore(models, Click(choice, folder, picture, Limits(), (stream.getvalue(),)), told.append)
    return told


@pytest.mark.parametrize(
    "choice",
    [
        Choice(FACES, "blur", (2.0,), methods=("flash(proximal)", "swinir"), quality="fast", seed=3),
        Choice(PHOTOGRAPHS, "holes", (), True, 0.0, quality="fast"),
        Choice(PHOTOGRAPHS, "blur", (1.2,), True, None, quality="fast"),
        Choice(PHOTOGRAPHS, "small", (3.0,), quality="fast"),
    ],
    ids=lambda one: f"{one.model}-{one.damage}",
)
def test_its_commands_give_the_very_pixels(choice, models, photograph, flash, tmp_path, monkeypatch):
    (page := tmp_path / "page").mkdir()
    *_, done = _run(models, choice, page, PORTRAIT if choice.model == FACES else photograph)
    assert isinstance(done, Done)
    with zipfile.ZipFile(io.BytesIO(done.bundle)) as bundle:
        bundle.extractall(tmp_path / "unpacked")
    monkeypatch.chdir(tmp_path / "unpacked")
    lines = Path("command.sh").read_text().splitlines()[2:]
    assert lines == done.commands.splitlines()
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "flashdiffusion"
        assert flash(*arguments).code == 0
    for n, outcome in enumerate(done.outcomes):
        ours = np.asarray(Image.open(io.BytesIO(outcome.image)))
        np.testing.assert_array_equal(np.asarray(Image.open(f"{folder_of(n)}/picture.png")), ours)
        assert Path(f"page/{folder_of(n)}.png").read_bytes() == outcome.image


def test_it_tells_of_the_measurement_the_steps_and_the_samples(models, tmp_path):
    begun, *steps, done = _run(models, Choice(samples=2, quality="fast"), tmp_path, PORTRAIT)
    assert isinstance(begun, Begun)
    assert 0 < begun.record.severity < 1
    assert begun.quality["psnr"] < done.outcomes[0].record.metrics["psnr"]
    numbers = [(one.number, one.total) for one in steps if isinstance(one, Step)]
    count = int(done.outcomes[0].record.nfe)
    assert numbers == [(n, count) for n in range(1, count + 1)]
    (one,) = done.outcomes
    assert len(one.others) == 1
    assert one.spread is not None
    assert 0 < one.deviation < 0.1
    assert one.noise[0] == "proximal"
    assert one.noise[1].nfe > count


@pytest.mark.filterwarnings("ignore:images of .* are far from")
def test_the_cost_from_noise_is_that_of_a_run_from_noise(models):
    pipeline = models(FACES)
    x = load_image(PORTRAIT, 128)
    physics = GaussianBlur(2.0, 0.02)
    y = physics(x[None], image_generator(0, "0"))
    own = Settings(steps=3)
    for method in ("flash(proximal)", "flash(latent-dps)"):
        counted = cost_from_noise(pipeline, Problem(y, physics), method, own)
        run = pipeline(y, physics, method=method[6:-1], steps=3)
        assert counted.nfe == int(run.nfe) == 3
        assert counted.gflop == pytest.approx(float(run.gflop), rel=0.05)


def test_a_run_that_is_stopped_makes_no_more_steps(models, tmp_path, monkeypatch):
    made = []
    denoise = type(models(FACES).prior).denoise
    monkeypatch.setattr(type(models(FACES).prior), "denoise", lambda *a: (made.append(1), denoise(*a))[1])
    clicks = Clicks(partial(restore, models), Limits(), tmp_path)
    run = _begin(clicks, "somebody", PORTRAIT, Choice(methods=("proximal",)))
    for word in run.events():
        if isinstance(word, Step):
            assert clicks.runs.stop("somebody")
            break
    assert run.wait(60)
    assert 1 <= len(made) <= 3  # of 18
    assert not clicks.runs.stop("somebody")
    assert list(tmp_path.iterdir()) == []


def test_a_visitor_has_one_run_and_may_leave_the_line(models, tmp_path):
    clicks = Clicks(partial(restore, models), Limits(), tmp_path)
    first = clicks.runs.ask("somebody")
    with pytest.raises(InputError, match="in line, or being restored"):
        clicks.runs.ask("somebody")
    assert clicks.runs.stop("somebody")
    second = clicks.runs.ask("somebody")  # while the first click is in line
    with pytest.raises(Stopped):
        clicks.begin("somebody", first, str(PORTRAIT), None, Choice())
    clicks.begin("somebody", second, str(PORTRAIT), None, Choice())


def test_a_full_line_turns_away_and_moves_on(monkeypatch):
    runs = Runs(2)
    first, _ = runs.ask("a"), runs.ask("b")
    runs.stop("a")  # which the page's queue still has
    with pytest.raises(InputError, match="2 pictures in line"):
        runs.ask("c")
    runs.leave(first)
    runs.ask("c")
    monkeypatch.setattr("flashdiffusion.app.run.LOST", -1.0)
    assert runs.ask("d")  # all others never came for their turn


@pytest.mark.parametrize("ticket", [None, "", "unknown"])
def test_a_click_without_a_place_in_line_is_stopped(ticket):
    runs, done = Runs(2), []
    own = runs.ask("somebody")
    for visitor in ("somebody", "another"):
        with pytest.raises(Stopped):
            runs.begin(visitor, ticket, Run(done.append))
    with pytest.raises(Stopped):
        runs.begin("another", own, Run(done.append))  # which was not theirs
    assert done == []
    assert not runs.stop("another")


def test_previews_are_deleted(models, tmp_path):
    clicks = Clicks(partial(restore, models), Limits(), tmp_path)
    first, second = (Path(clicks.preview(PORTRAIT, "somebody")) for _ in range(2))
    assert second.is_file() and not first.exists()
    clicks.left("somebody")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("model", EXAMPLES)
def test_an_example_is_shown_as_it_is(model, tmp_path):
    with Image.open(example(model)) as image:
        assert image.mode == "RGB" and max(image.size) <= PREVIEW and not image.getexif()
    shown = Clicks(lambda click, tell: None, Limits(), tmp_path).preview(example(model), "somebody")
    assert Path(shown).read_bytes() == example(model).read_bytes()


def test_one_that_leaves_off_listening_stops_the_run(models, tmp_path):
    clicks = Clicks(partial(restore, models), Limits(), tmp_path)
    run = _begin(clicks, "somebody", PORTRAIT, Choice(methods=("proximal",)))
    events = run.events()
    next(events)
    events.close()
    assert run.wait(60)


def test_the_failure_of_one_leaves_the_others_alone(models, tmp_path, capsys):
    clicks = Clicks(partial(restore, models), Limits(), tmp_path)
    wrong = tmp_path / "wrong.png"
    wrong.write_bytes(b"no picture")
    bad = _begin(clicks, "bad", wrong, Choice())
    good = _begin(clicks, "good", PORTRAIT, Choice(methods=("ae",)))
    listening = good.events()
    first = next(listening)
    (failure,) = bad.events()
    assert isinstance(failure, Failure)
    assert "wrong.png cannot be read as a picture" in failure
    assert isinstance([first, *listening][-1], Done)

    def broken(tell):
        raise ZeroDivisionError("a fault of ours")

    assert [*Run(broken).events()] == [FAULT]
    assert "a fault of ours" in capsys.readouterr().err


def test_what_is_told_becomes_parts_of_the_page(models, tmp_path):
    clicks = Clicks(partial(restore, models), Limits(), tmp_path)
    run = _begin(clicks, "somebody", PORTRAIT, Choice(methods=("swinir", "ae")))
    files_kept: dict[str, bytes] = {}
    found: dict = {}
    for part in words(run, lambda name, data: (files_kept.update({name: data}), name)[1]):
        found |= part
    assert "Done in" in found["status"]
    assert "predicted severity" in found["severity"]
    assert "PSNR" in found["results"]
    assert "--lpips FILE" in found["results"]
    assert {found["slider"][1], found["compare"][1], found["bundle_file"]} <= files_kept.keys()


def test_the_embedded_models_are_those_of_the_page(models):
    assert models(FACES) is models(FACES)
    assert isinstance(models(PHOTOGRAPHS), FlashPipeline)
