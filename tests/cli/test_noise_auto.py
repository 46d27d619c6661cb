"""`--noise-std auto`: the noise of each image, estimated from it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiffusion.data import load_image, save_image
from flashdiffusion.physics import estimate_noise_std
from flashdiffusion.physics.jpeg import quality_of, rounding_std


@pytest.fixture
def noisy(tmp_path, image_folder):
    """Two images of different noise, one of them an array."""
    folder = tmp_path / "noisy"
    folder.mkdir()
    for n, std in enumerate((0.03, 0.12)):
        x = load_image(image_folder / f"image-{n:02d}.png", 32)
        y = x + std * torch.randn(x.shape, generator=torch.Generator().manual_seed(n))
        if n:
            np.save(folder / f"{n}.npy", y.numpy())
        else:
            save_image(y.clamp(0, 1), folder / f"{n}.png")
    return folder / "0.png", folder / "1.npy"


def _records(folder):
    results = json.loads((folder / "results.json").read_text())
    return results, {one["id"]: one for one in results["records"]}


def test_is_estimated_for_each_image_told_and_recorded(flash, tmp_path, noisy, tiny_model):
    given = (*noisy, "--physics", "gaussian-blur:std=0.5", "--model", tiny_model, "--steps", 3)
    ended = flash("restore", *given, "--noise-std", "auto", "--out", tmp_path / "auto")
    assert ended.code == 0 and "noise" in ended.out
    [line] = ended.err.splitlines()
    assert "2 of 2 images are farther from their measurements than the noise explains" in line  # untrained networks
    results, records = _records(tmp_path / "auto")
    assert results["noise_std"] == "auto" and results["mean"]["noise_std"] > 0
    assert 0.02 < records["0"]["noise_std"] < 0.07 and 0.1 < records["1"]["noise_std"] < 0.15
    exact = float(estimate_noise_std(torch.from_numpy(np.load(noisy[1]))[None]))
    assert records["1"]["noise_std"] == pytest.approx(exact, rel=1e-5)
    for out, std in (("alone", "auto"), ("told", repr(exact))):  # alone both times: untrained networks amplify rounding
        assert flash("restore", noisy[1], *given[2:], "--noise-std", std, "--out", tmp_path / out).code == 0
    assert (tmp_path / "told" / "1.png").read_bytes() == (tmp_path / "alone" / "1.png").read_bytes()
    assert "noise_std" not in _records(tmp_path / "told")[1]["1"]


def test_severity_takes_it_too(flash, noisy, tiny_model):
    given = ("severity", *noisy, "--model", tiny_model, "--json", "--noise-std")
    for more in ((), ("--physics", "denoising")):
        ended = flash(*given, "AUTO", *more)
        assert ended.code == 0 and ended.err == ""
        found = [one["noise_std"] for one in json.loads(ended.out)["records"]]
        assert 0.02 < found[0] < 0.07 and 0.1 < found[1] < 0.15
    assert all("noise_std" not in one for one in json.loads(flash(*given, "0.1").out)["records"])


def test_is_no_less_than_rounding_to_the_bits_of_the_file(flash, tmp_path, tiny_model):
    levels = np.tile(np.linspace(0, 1, 32), (32, 1))
    for name, whole in (("8.png", np.uint8), ("16.png", np.uint16)):
        Image.fromarray((levels * np.iinfo(whole).max).astype(whole)).save(tmp_path / name)
    np.save(tmp_path / "8.npy", (255 * levels).astype(np.uint8))
    np.save(tmp_path / "float.npy", np.full((32, 32), 0.5, np.float32))
    files = ("8.png", "16.png", "8.npy", "float.npy")
    given = [tmp_path / name for name in files]
    ended = flash("severity", *given, "--noise-std", "auto", "--model", tiny_model, "--json")
    assert ended.code == 0, ended.err
    found = dict(zip(files, (one["noise_std"] for one in json.loads(ended.out)["records"]), strict=True))
    rounding = [1 / (2**bits - 1) / 12**0.5 for bits in (8, 16)]
    assert found["8.png"] == found["8.npy"] == pytest.approx(rounding[0], rel=1e-4)
    assert found["16.png"] == pytest.approx(rounding[1], rel=1e-4)
    assert found["float.npy"] < rounding[1] / 10


@pytest.mark.parametrize(
    ("physics", "said"),
    [
        ("phase-retrieval", "noise is estimated from images, and measurements of phase-retrieval are no images"),
        ("hdr+camera-noise:gain=0.01", "that of hdr+camera-noise is of two parts, of which its gain says one"),
        (
            "gaussian-blur:std=1,noise_std=0.1",
            "noise std is auto, and gaussian-blur:std=1,noise_std=0.1 says it too",
        ),
    ],
)
def test_is_refused_where_it_means_nothing(flash, tmp_path, noisy, tiny_model, physics, said):
    given = ("--physics", physics, "--noise-std", "auto", "--model", tiny_model)
    for command in (("restore", noisy[1], "--out", tmp_path / "out"), ("severity", noisy[1])):
        ended = flash(*command, *given)
        assert ended.code == 2 and said in ended.err
        assert "Traceback" not in ended.err


def test_is_refused_where_too_little_was_measured(flash, tmp_path, noisy, tiny_model):
    mask = torch.zeros(3, 32, 32)
    mask[:, ::2] = 1
    save_image(mask, tmp_path / "mask.png")
    given = ("--physics", f"random-inpainting:mask={tmp_path / 'mask.png'}", "--model", tiny_model)
    ended = flash("restore", noisy[0], *given, "--noise-std", "auto", "--out", tmp_path / "out")
    assert ended.code == 2 and "0 places where all of 4 x 4 pixels were measured" in ended.err


@pytest.mark.parametrize("command", ["restore", "severity"])
def test_says_what_it_takes(flash, tmp_path, noisy, tiny_model, command):
    given = (*noisy, "--physics", "denoising", "--model", tiny_model, "--noise-std", "much")
    more = ("--out", tmp_path / "out") if command == "restore" else ()
    ended = flash(command, *given, *more)
    assert ended.code == 2 and "noise std is 'much'; expected a number from 0 to 1, or auto" in ended.err


def test_noise_that_is_not_there_is_said(flash, tmp_path, image_folder):
    photo = tmp_path / "photo.png"
    with Image.open(image_folder / "image-00.png") as image:
        image.resize((64, 64)).save(photo)
    given = ("restore", photo, "--physics", "denoising", "--out", tmp_path / "out")
    ended = flash(*given)
    assert (
        ended.code == 0 and "1 of 1 images are nearer to their measurements than the noise that was told" in ended.err
    )
    assert "1 of 1 images have nothing but noise: --method denoise" in ended.err
    x = load_image(photo)
    save_image((x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1), photo)
    for more in (("--method", "flash(proximal)"), ("--noise-std", "auto", "--method", "denoise")):
        ended = flash(*given, *more)
        assert ended.code == 0 and ended.err == ""


@pytest.mark.parametrize("quality", [50, 75, 92])
def test_what_compression_rounds_is_taken_for_noise(flash, tmp_path, image_folder, tiny_model, quality):
    file = tmp_path / "photo.jpg"
    with Image.open(image_folder / "image-00.png") as image:
        image.resize((32, 32)).save(file, quality=quality)
        image.resize((32, 32)).save(tmp_path / "photo.png")
    with Image.open(file) as image:
        table = image.quantization[0]
    assert quality_of(table) == quality and 0.01 < rounding_std(table) < 0.08
    given = ("severity", "--noise-std", "auto", "--model", tiny_model, "--json")

    def estimated(*more):
        ended = flash(*given, *more)
        assert ended.code == 0, ended.err
        return json.loads(ended.out)["records"][0]["noise_std"], ended.err

    found, said = estimated(file)
    assert rounding_std(table) <= found <= rounding_std(table) + 0.02
    assert "1 of 1 images are JPEG files" in said and f"of quality about {quality}: " in said
    for other in ((file, "--physics", f"gaussian-blur:std=1+jpeg:quality={quality}"), (tmp_path / "photo.png",)):
        found, said = estimated(*other)
        assert found < rounding_std(table) and said == ""
