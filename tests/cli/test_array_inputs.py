"""Arrays of other programs as measurements: restored like the measurement file of the same values, or refused."""

import json

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from flashdiffusion.data import MeasurementFile
from flashdiffusion.physics import PhaseRetrieval
from flashdiffusion.pipeline.inputs import as_measurements

BLUR = ("--physics", "gaussian-blur:std=1")


@pytest.fixture
def values():
    x = torch.linspace(0.1, 0.8, 32 * 32).view(1, 32, 32).repeat(3, 1, 1)
    return (x + 0.1 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))).numpy()


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_an_array_is_restored_as_its_measurement_file(flash, tmp_path, tiny_model, values):
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "a.npy", values)
    np.savez(folder / "b.npz", other=np.zeros(3), y=values.transpose(1, 2, 0))
    torch.save(torch.from_numpy(values)[None], folder / "c.pt")
    scipy.io.savemat(folder / "d.mat", {"y": values.transpose(1, 2, 0).astype(np.float64)})
    file = MeasurementFile("m", torch.from_numpy(values), "gaussian-blur", {"std": torch.ones(1)}, 0.05)
    file.save(tmp_path / "m.safetensors")
    common = ("--method", "ae", "--model", tiny_model, "--out", tmp_path / "o")
    ended = flash("restore", folder, tmp_path / "m.safetensors", *BLUR, *common)
    assert ended.code == 0 and ended.err == "", ended.err
    expected = _pixels(tmp_path / "o" / "m.png")
    for name in "abcd":
        assert np.abs(_pixels(tmp_path / "o" / f"{name}.png") - expected).max() <= 1
        [path] = folder.glob(f"{name}.*")
        y, grey = as_measurements(path, lambda x: x)
        assert torch.equal(y, torch.from_numpy(values)[None]) and not grey
    ended = flash("severity", folder, *BLUR, "--model", tiny_model, "--json")
    assert len({row["severity"] for row in json.loads(ended.out)["records"]}) == 1, ended.err


def test_a_grey_array_gives_a_grey_image_and_phases_need_no_image(flash, tmp_path, tiny_model, values):
    np.save(tmp_path / "grey.npy", values[0])
    np.save(tmp_path / "phases.npy", PhaseRetrieval(2.0).A(torch.from_numpy(values)[None])[0].numpy())
    common = ("--method", "ae", "--model", tiny_model, "--out", tmp_path / "o")
    assert flash("restore", tmp_path / "grey.npy", *BLUR, *common).code == 0
    assert _pixels(tmp_path / "o" / "grey.png").shape == (32, 32)
    ended = flash("restore", tmp_path / "phases.npy", "--physics", "phase-retrieval", *common)
    assert ended.code == 0 and _pixels(tmp_path / "o" / "phases.png").shape == (32, 32, 3), ended.err


@pytest.mark.parametrize("kind", ["safetensors", "npy"])
def test_measurements_from_minus_one_to_one_are_noted(flash, tmp_path, tiny_model, values, kind):
    for name, y in (("right", values), ("wrong", 2 * values - 1)):
        path = tmp_path / f"{name}.{kind}"
        if kind == "npy":
            np.save(path, y)
        else:
            MeasurementFile(name, torch.from_numpy(y), "gaussian-blur", {"std": torch.ones(1)}, 0.0).save(path)
        for command, out in (("restore", ("--method", "ae", "--out", tmp_path / "o")), ("severity", ())):
            ended = flash(command, path, *(BLUR if kind == "npy" else ()), "--model", tiny_model, *out)
            noted = f"note: {path}: measurements range from -" in ended.err and "pass (y + 1) / 2" in ended.err
            assert ended.code == 0 and noted == (name == "wrong"), ended.err


@pytest.mark.parametrize(
    ("array", "options", "reason"),
    [
        (np.zeros((3, 32, 32)), (), "holds no physics: say what gave it with --physics"),
        (np.zeros((3, 32, 7)), BLUR, "expected at least 8 pixels a side\n"),
        (np.zeros((4, 32, 32)), BLUR, "shape (4, 32, 32); expected one measurement, (3, H, W), (H, W, 3) or"),
        (np.zeros((2, 3, 32, 32)), BLUR, "shape (2, 3, 32, 32); expected one measurement"),
        (np.zeros(7), BLUR, "shape (7,); expected one measurement"),
        (
            np.full((3, 32, 32), 200.0),
            BLUR,
            "range from 200 to 200; expected the [0, 1] scale plus noise: divide them by 255",
        ),
        (np.full((3, 32, 32), 4e4), BLUR, "expected the [0, 1] scale plus noise: divide them by 65535"),
        (np.full((3, 32, 32), 5.0), BLUR, "expected the [0, 1] scale plus noise\n"),
        (np.full((3, 32, 32), np.nan), BLUR, "NaN or infinite values"),
        (np.zeros((3, 32, 32), dtype=int), BLUR, "int64; expected uint8 from 0 to 255"),
        (np.zeros((3, 32, 32)), ("--physics", "random-inpainting:ratio=0.5"), "one must know which pixels are lost"),
        (np.zeros((3, 32, 32)), ("--physics", "super-resolution:factor=64"), ""),
    ],
)
def test_an_array_that_is_no_measurement(flash, tmp_path, tiny_model, array, options, reason):
    np.save(tmp_path / "a.npy", array)
    ended = flash("restore", tmp_path / "a.npy", *options, "--method", "ae", "--model", tiny_model, "--out", tmp_path)
    assert ended.code == 2 and ended.err.count("\n") == 1 and reason in ended.err, ended.err


def test_arrays_beside_images_are_passed_over_and_said(flash, tmp_path, tiny_model, values):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    np.save(tmp_path / "labels.npy", values)
    ended = flash("severity", tmp_path, "--model", tiny_model, "--json")
    assert ended.code == 0 and "arrays beside them" in ended.err
    assert [row["id"] for row in json.loads(ended.out)["records"]] == ["a"]
