"""Jobs in one process: what comes of every item, whatever it needs on the way."""

import io
import pickle
from dataclasses import replace

import pytest
import torch
from PIL import Image

from flashdiffusion.data import MeasurementFile, decode_image
from flashdiffusion.errors import InputError
from flashdiffusion.jobs import EvaluateJob, Item, ModelChoice, RestoreJob, run_local
from flashdiffusion.pipeline import FlashPipeline

FEW = {"steps": 4}


@pytest.fixture
def model(tiny_model):
    return ModelChoice(str(tiny_model), "cpu")


@pytest.fixture
def items(image_folder, tmp_path):
    """Images of two sizes, a measurement and a broken file, in turns."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(3, 32, 32, generator=generator)
    MeasurementFile("m", small, "random-inpainting", {"mask": torch.ones(1, 1, 32, 32)}, 0.0).save(
        tmp_path / "m.safetensors"
    )
    (tmp_path / "broken.png").write_text("words")
    with Image.open(image_folder / "image-00.png") as image:
        image.resize((32, 32)).save(tmp_path / "small.png")
    paths = [image_folder / f"image-{i:02d}.png" for i in range(3)]
    paths = [paths[0], tmp_path / "broken.png", tmp_path / "m.safetensors", tmp_path / "small.png", *paths[1:]]
    return [Item(i, path.stem, str(path)) for i, path in enumerate(paths)]


def test_every_item_comes_back_once_as_itself(model, items):
    job = pickle.loads(pickle.dumps(RestoreJob(model, physics="gaussian-blur:std=1", given=FEW)))
    given = [replace(item) for item in items]
    dones = {done.index: done for done in run_local(job, iter(items))}
    assert sorted(dones) == [0, 1, 2, 3, 4, 5] and items == given
    sizes = {0: (48, 40), 2: (32, 32), 3: (32, 32), 4: (48, 40), 5: (48, 40)}
    for item in items:
        done = dones[item.index]
        assert done.name == item.name
        if item.name == "broken":
            assert done.record is None and done.source == item.path and "not an image" in done.reason
            continue
        assert done.reason is None and done.record["id"] == item.name
        assert done.record["degradation"]["physics"] == ("random-inpainting" if item.name == "m" else "gaussian-blur")
        assert Image.open(io.BytesIO(done.pngs["restored"])).size == sizes[item.index]


def test_reading_goes_on_while_images_are_restored(model, image_folder, monkeypatch):
    """Chunks are no barriers: one stream takes the images of all of them, and they are read a little ahead."""
    from flashdiffusion.jobs import restore

    calls, read = [], []
    original = FlashPipeline.stream
    monkeypatch.setattr(FlashPipeline, "stream", lambda *a, **k: calls.append(1) or original(*a, **k))
    monkeypatch.setattr(restore, "CHUNK", 2)

    def items():
        for i in range(24):
            read.append(i)
            yield Item(i, f"n{i}", str(image_folder / f"image-{i % 12:02d}.png"))

    job = RestoreJob(model, physics="gaussian-blur:std=1", given=FEW, max_in_flight=1, method="latent-dps")
    ahead = [len(read) - n for n, _ in enumerate(run_local(job, items()))]
    assert len(calls) == 1 and len(ahead) == 24 and max(ahead) <= 16


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "latent-dps", "given": {"eta": -1.0}}, "guidance is -1.0"),
        ({"given": {"eta": 1.0}}, "guidance: not used by method flash\\(proximal\\)"),
        ({"max_in_flight": 0}, "max_in_flight is 0; expected at least 1"),
        ({"model": ModelChoice("absent")}, "no model 'absent'"),
        ({"model": ModelChoice(precision="half")}, "unknown precision 'half'"),
        ({"weights": {"lpips": "absent"}}, "no LPIPS weights"),
    ],
)
def test_what_no_image_can_use_is_refused_before_the_first(model, items, change, reason):
    with pytest.raises(InputError, match=reason):
        run_local(RestoreJob(**({"model": model} | change)), items)


def test_data_that_changed_since_it_was_listed_is_a_failure(model, image_folder):
    job = EvaluateJob((str(image_folder),), model, "gaussian-blur", "ae")
    items = [Item(0, "a", "image-00.png"), Item(1, "b", "gone.png"), Item(99, "c", "image-99.png")]
    dones = {done.index: done.reason for done in run_local(job, items)}
    assert dones == {
        0: None,
        1: "the data changed during the run: gone.png is no longer image 1",
        99: "the data changed during the run: image-99.png is no longer image 99",
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_in_flight": 0}, "max_in_flight is 0"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"noise_std": -1.0}, "noise std is -1.0; expected a finite number >= 0"),
        ({"task": "nonlinear-blur", "method": "flash(psld)"}, "psld needs linear degradations"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_before_the_first_image(model, image_folder, change, reason):
    with pytest.raises(InputError, match=reason):
        EvaluateJob(**({"data": (str(image_folder),), "model": model} | change)).open()


@pytest.mark.parametrize(("wanted", "kinds"), [(True, {"clean", "measured", "estimate", "restored"}), (False, set())])
def test_an_evaluation_gives_images_if_they_are_wanted(model, image_folder, wanted, kinds):
    job = EvaluateJob((str(image_folder),), model, "gaussian-blur", "ae", images=wanted, batch_size=3)
    items = [Item(i, f"name-{i}", f"image-{i:02d}.png") for i in (0, 1, 5, 6)]
    dones = {done.index: done for done in run_local(job, items)}
    assert sorted(dones) == [0, 1, 5, 6]
    for i, done in dones.items():
        assert done.record["id"] == f"name-{i}" == done.name
        assert set(done.pngs) == kinds
    for png in dones[0].pngs.values():
        assert decode_image(png, "png").size == (32, 32)
    if wanted:
        assert dones[0].pngs["estimate"] == dones[0].pngs["restored"]  # of the method that restores nothing more
