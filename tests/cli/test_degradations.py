"""Every degradation on the command line: measured, looked at, restored."""

import json
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiffusion.data import MeasurementFile, load_image
from flashdiffusion.physics import GaussianBlur, KernelWizard

WRITTEN = {
    "box-inpainting:top=8,left=4,height=16,width=8": (3, 32, 32),
    "super-resolution:factor=4": (3, 8, 8),
    "motion-blur:length=9,angle=30": (3, 32, 32),
    "motion-blur:std=2": (3, 32, 32),
    "nonlinear-blur:std=2": (3, 32, 32),
    "jpeg:quality=20": (3, 32, 32),
    "hdr": (3, 32, 32),
    "phase-retrieval": (3, 48, 48),
    "gaussian-blur:std=1+jpeg:quality=30": (3, 32, 32),
    "gaussian-blur:std=1+super-resolution:factor=2,noise_std=0.01": (3, 16, 16),
}
# One more of these would not leave an image for each in the test of all kinds.
EVERYDAY = {
    "defocus:radius=2.5": (3, 32, 32),
    "camera-noise:gain=0.01": (3, 32, 32),
    "defocus:radius=1.5+camera-noise:gain=0.01": (3, 32, 32),
}


def _size(path: Path) -> tuple[int, ...]:
    with Image.open(path) as image:
        return np.asarray(image).shape


@pytest.mark.parametrize("written", WRITTEN | EVERYDAY)
def test_degrade_and_restore(flash, tmp_path, image_folder, tiny_model, written):
    inputs = [image_folder / f"image-{i:02d}.png" for i in range(2)]
    out = tmp_path / "measured"
    ended = flash("degrade", *inputs, "--physics", written, "--size", 32, "--noise-std", 0.02, "--out", out)
    assert ended.code == 0 and ended.err == ""
    noise_std = 0.01 if "noise_std" in written else 0.02
    assert f"noise_std={noise_std}" in ended.out
    file = MeasurementFile.load(out / "image-00.safetensors")
    assert file.y.shape == (WRITTEN | EVERYDAY)[written] and file.noise_std == noise_std
    assert _size(out / "image-00.png") == (32, 32, 3)
    (first, _) = json.loads((out / "degrade.json").read_text())["records"]
    assert first["measurement_psnr"] > 0

    ended = flash("severity", out, "--model", tiny_model)
    assert ended.code == 0
    options = ("--steps", 3, "--model", tiny_model, "--reference", image_folder)
    ended = flash("restore", out, "--out", tmp_path / "restored", *options)
    assert ended.code == 0 and ended.err == ""
    assert _size(tmp_path / "restored" / "image-01.png") == (32, 32, 3)
    records = json.loads((tmp_path / "restored" / "results.json").read_text())["records"]
    assert records[0]["degradation"] == first["degradation"]


def test_measurements_of_all_kinds_are_restored_in_one_command(flash, tmp_path, image_folder, tiny_model):
    for i, written in enumerate([*WRITTEN, "super-resolution:factor=2"]):
        options = ("--physics", written, "--size", 32, "--noise-std", 0.01 * i, "--out", tmp_path / "measured")
        assert flash("degrade", image_folder / f"image-{i:02d}.png", *options).code == 0
    large = ("--physics", "super-resolution:factor=4", "--size", 64, "--out", tmp_path / "measured")
    assert flash("degrade", image_folder / "image-11.png", *large).code == 0  # as many pixels as x2 of 32 gives
    out = tmp_path / "restored"
    ended = flash("restore", tmp_path / "measured", "--steps", 2, "--model", tiny_model, "--out", out)
    assert ended.code == 0 and ended.err == ""
    sizes = {path.stem: _size(path) for path in out.glob("*.png")}
    assert len(sizes) == 12 and sizes.pop("image-11") == (64, 64, 3)
    assert set(sizes.values()) == {(32, 32, 3)}


@pytest.mark.parametrize("task", ["box-inpainting", "super-resolution", "phase-retrieval", "gaussian-blur+jpeg"])
def test_degrade_draws_from_a_task(flash, tmp_path, image_folder, task):
    options = ("--task", task, "--size", 32, "--out", tmp_path / "out")
    assert flash("degrade", image_folder / "image-00.png", *options).code == 0
    assert _size(tmp_path / "out" / "image-00.png") == (32, 32, 3)


def test_noise_alone_is_a_task(flash, tmp_path, image_folder, tiny_model):
    out = tmp_path / "results.json"
    options = ("--task", "denoising", "--noise-std", 0.1, "--method", "ae", "--model", tiny_model, "--out", out)
    assert flash("evaluate", "--data", image_folder, "--limit", 2, *options).code == 0
    records = json.loads(out.read_text())["records"]
    assert [row["degradation"] for row in records] == [{"physics": "denoising"}] * 2
    assert all(row["measurement_psnr"] == pytest.approx(20, abs=1.5) for row in records)  # -20 log10(0.1)


def test_what_was_drawn_must_be_known_to_restore_an_image(flash, tmp_path, image_folder, tiny_model):
    for written, known in {
        "motion-blur:std=2": "the camera's path; give motion-blur:length=NUMBER,angle=NUMBER or a measurement file",
        "hdr+nonlinear-blur:std=2": "the camera's path; give a measurement file",
    }.items():
        options = ("--physics", written, "--model", tiny_model, "--out", tmp_path / "out")
        ended = flash("restore", image_folder / "image-00.png", *options)
        assert ended.code == 2 and f"one must know {known}" in ended.err


def test_a_small_image_is_made_larger(flash, tmp_path, image_folder, tiny_model):
    options = ("--physics", "super-resolution:factor=2", "--steps", 2, "--model", tiny_model)
    assert flash("restore", image_folder / "image-00.png", *options, "--out", tmp_path / "out").code == 0
    assert _size(tmp_path / "out" / "image-00.png") == (80, 96, 3)


@pytest.mark.parametrize("physics", ["super-resolution:factor=2", "gaussian-blur:std=1+super-resolution:factor=2"])
def test_a_small_image_is_fitted_to_the_size_that_a_measurement_has(flash, tmp_path, image_folder, tiny_model, physics):
    options = ("--physics", physics, "--fit", "--steps", 2, "--model", tiny_model)
    assert flash("restore", image_folder / "image-00.png", *options, "--out", tmp_path / "out").code == 0
    assert _size(tmp_path / "out" / "image-00.png") == (32, 32, 3)


def test_the_blur_kernel_space_network_is_given_again_to_restore(flash, tmp_path, image_folder, tiny_model):
    torch.manual_seed(0)
    weights = tmp_path / "weights.pth"
    torch.save(KernelWizard().state_dict(), weights)
    given, out = ("--physics", f"blur-kernel-space:weights={weights}"), tmp_path / "measured"
    assert flash("degrade", image_folder / "image-00.png", *given, "--size", 128, "--out", out).code == 0
    file = MeasurementFile.load(out / "image-00.safetensors")
    assert file.physics == "blur-kernel-space" and file.params["code"].shape == (1, 512, 1, 1)
    assert flash("severity", out, "--model", tiny_model).code == 0

    options = ("--steps", 1, "--model", tiny_model, "--out", tmp_path / "restored")
    ended = flash("restore", out, *options)
    assert ended.code == 2 and "--physics" in ended.err
    ended = flash("restore", out, *options, "--physics", "hdr")
    assert ended.code == 2 and "needs --physics blur-kernel-space:weights=FILE" in ended.err
    ended = flash("restore", out, *options, *given)
    assert ended.code == 0 and ended.err == ""
    assert _size(tmp_path / "restored" / "image-00.png") == (128, 128, 3)


def test_a_blur_that_was_told_wrongly_is_said_and_recorded(flash, tmp_path):
    with as_file(files("flashdiffusion") / "assets" / "portrait.png") as path:
        portrait = load_image(path, 128)[None]
    for name, std, noise_std in (("right", 1.5, 0.05), ("wrong", 3.0, 0.05), ("noisy", 1.5, 0.15)):
        y = GaussianBlur(std, noise_std)(portrait, torch.Generator().manual_seed(0))
        np.save(tmp_path / f"{name}.npy", y[0].numpy())
    given = ("--physics", "gaussian-blur:std=1.5", "--model", "faces-128", "--out", tmp_path / "out")
    run = flash("restore", *(tmp_path / f"{name}.npy" for name in ("right", "wrong", "noisy")), *given)
    assert run.code == 0
    assert "1 of 3 images do not fit the physics that was told (first: wrong)" in run.err
    assert "1 of 3 images are farther from their measurements than the noise explains" in run.err and "noisy" in run.err
    records = json.loads((tmp_path / "out" / "results.json").read_text())["records"]
    corrected = {one["id"]: one.get("physics_corrected") for one in records}
    assert corrected == {"right": None, "wrong": True, "noisy": None}
