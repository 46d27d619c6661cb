"""Masks as files on the command line: any name, one for each image, the image's own alpha, fitted as the image is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiffusion.data import MeasurementFile
from flashdiffusion.data.images import fit
from flashdiffusion.errors import InputError
from flashdiffusion.jobs.inputs import named_files
from flashdiffusion.jobs.parse import check_files, own_file, parse_physics, read_physics
from flashdiffusion.physics.masks import fit_mask

LEFT = np.zeros((40, 48), np.uint8)
LEFT[:, :24] = 255


@pytest.mark.parametrize("name", ["a,b.png", "a+hdr.png", "a:b.png", "~a.png", "a=b.png", "it's.png", "a b.png"])
def test_any_file_name_can_be_quoted(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(LEFT).save(tmp_path / name)
    quoted = f'"{name}"'
    for text in (f"random-inpainting:mask={quoted}", f"hdr+random-inpainting:mask={quoted},noise_std=0.1+hdr:scale=3"):
        assert [str(file) for one in read_physics(text) for file in one.files] == [name]
        assert [*named_files(text)] == [name]
    physics = parse_physics(f"random-inpainting:mask={quoted},noise_std=0.1", (40, 48), torch.Generator())
    assert physics.describe()[0]["ratio"] == 0.5 and physics.noise_std.tolist() == [0.1]


def test_what_is_not_quoted_is_said():
    with pytest.raises(InputError, match=r"'b.png' of random-inpainting .* quoted, as in mask=\"a,b.png\""):
        read_physics("random-inpainting:mask=a,b.png")
    with pytest.raises(InputError, match=r"a,b.png\"$"):  # nothing of images that would lack a file
        check_files("random-inpainting:mask=a,b.png", [Path("image.png")])


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(LEFT).save(tmp_path / "m.png")
    assert parse_physics("random-inpainting:mask=~/m.png", (40, 48), torch.Generator()).describe()[0]["ratio"] == 0.5


def test_a_file_for_each_image_is_found_by_its_path_and_name(tmp_path):
    for place in ("masks/a", "masks/b", "images/a", "images/b", "images/c"):
        (tmp_path / place).mkdir(parents=True)
    for file in ("masks/a/x.png", "masks/b/x.gif", "masks/x.bmp", "masks/y.png", "masks/y.gif"):
        (tmp_path / file).touch()
    masks, images = tmp_path / "masks", tmp_path / "images"
    found = [own_file(masks, images / name).relative_to(masks).as_posix() for name in ("a/x.jpg", "b/x.jpg", "c/x.jpg")]
    assert found == ["a/x.png", "b/x.gif", "x.bmp"] and own_file(masks, images / "y.gif").name == "y.gif"
    with pytest.raises(InputError, match=r"several files in .*: y.gif, y.png"):
        own_file(masks, images / "y.jpg")
    with pytest.raises(InputError, match=r"no file for .*z.jpg in .*masks"):
        own_file(masks, images / "z.jpg")


def test_a_file_that_two_images_would_share_is_refused(tmp_path):
    for place in ("masks", "images/a", "images/b"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "masks" / "x.png").touch()
    images = [tmp_path / "images" / place / "x.png" for place in ("a", "b")]
    text = f"random-inpainting:mask={tmp_path / 'masks'}"
    check_files(text, images[:1])
    with pytest.raises(InputError, match=r"masks/x.png is the file of both .*a/x.png and .*b/x.png; .*masks/b/x.png"):
        check_files(text, images)
    (tmp_path / "masks" / "b").mkdir()
    (tmp_path / "masks" / "b" / "x.png").touch()
    check_files(text, images)
    check_files(f"blur:kernel={tmp_path / 'masks' / 'x.png'}", images)  # one file for all, as asked


def _ratios(folder) -> list[float]:
    return [row["degradation"]["ratio"] for row in json.loads((folder / "results.json").read_text())["records"]]


def test_a_folder_of_masks(flash, tmp_path, image_folder, tiny_model):
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for number in range(3):
        mask = np.zeros((40, 48), np.uint8)
        mask[:, : 12 * (number + 1)] = 255
        Image.fromarray(mask).save(masks / f"image-{number:02d}.png")
    inputs = [image_folder / f"image-{number:02d}.png" for number in range(4)]
    options = ("--physics", f"random-inpainting:mask={masks}", "--method", "ae", "--model", tiny_model, "--out", out)
    ended = flash("restore", *inputs, *options)
    assert ended.code == 2 and "1 of 4 images lack theirs: image-03.png" in ended.err and not out.exists()
    ended = flash("restore", *inputs[:3], *options)
    assert ended.code == 0 and _ratios(out) == [0.75, 0.5, 0.25]
    lose = "3 of 3 images lose pixels where their mask is dark; first: " + str(inputs[0])
    assert ended.err.count("mask") == 1 and f"{lose}, 75% of it" in ended.err
    Image.fromarray(LEFT).save(masks / "image-00.png")
    ended = flash("restore", *inputs[:3], *options, "--resume")
    assert ended.code == 0 and _ratios(out) == [0.5, 0.5, 0.25]  # the one whose mask changed is made again

    measured = tmp_path / "measured"
    written = ("--physics", f"random-inpainting:mask={masks}", "--size", 32, "--out", measured)
    ended = flash("degrade", *inputs[1:3], *written)
    assert ended.code == 0 and f"2 of 2 images lose pixels where their mask is dark; first: {inputs[1]}, 5" in ended.err
    assert MeasurementFile.load(measured / "image-02.safetensors").params["mask"].shape == (1, 1, 32, 32)


def test_the_image_s_own_alpha(flash, tmp_path, image_folder, tiny_model):
    image = Image.open(image_folder / "image-00.png").convert("RGB")
    image.putalpha(Image.fromarray(LEFT))
    image.save(tmp_path / "holes.png")
    options = ("--physics", "random-inpainting:mask=alpha", "--method", "ae", "--model", tiny_model)
    assert flash("restore", tmp_path / "holes.png", *options, "--out", tmp_path / "out").code == 0
    assert _ratios(tmp_path / "out") == [0.5]
    ended = flash("restore", image_folder / "image-00.png", *options, "--out", tmp_path / "none")
    assert ended.code == 2 and "no alpha channel; give its mask as a file" in ended.err


def test_a_mask_of_the_original_size_is_fitted_as_the_image_is(flash, tmp_path, image_folder, tiny_model):
    image = image_folder / "image-00.png"
    mask = np.zeros((40, 48), np.uint8)
    mask[:20, 4:44] = 255  # of the square in the middle the upper half
    Image.fromarray(mask).save(tmp_path / "mask.png")
    lost = Image.fromarray(1 - mask.astype(np.float32) / 255)
    whole = lost.resize((32, 32), Image.Resampling.LANCZOS, box=(4, 0, 44, 40))
    untouched = np.abs(np.asarray(whole)) <= 0.02  # by a lost pixel: the upper half, but for its last rows
    Image.fromarray((untouched * 255).astype(np.uint8)).save(tmp_path / "small.png")
    options = ("--fit", "--method", "ae", "--model", tiny_model)
    for name in ("mask", "small"):
        physics = f"random-inpainting:mask={tmp_path / name}.png"
        ended = flash("restore", image, *options, "--physics", physics, "--out", tmp_path / name)
        assert ended.code == 0, ended.err
        assert _ratios(tmp_path / name) == [round(1 - untouched.mean(), 4)] and untouched[:13, 3:29].all()
        assert not untouched[16:].any()
    both = [np.asarray(Image.open(tmp_path / name / "image-00.png")) for name in ("mask", "small")]
    assert both[0].shape == (32, 32, 3) and (both[0] == both[1]).all()
    Image.fromarray(mask[:30]).save(tmp_path / "odd.png")
    odd = ("--physics", f"random-inpainting:mask={tmp_path / 'odd.png'}", "--out", tmp_path / "odd")
    ended = flash("restore", image, *options, *odd)
    assert ended.code == 2 and "with a mask of 30 x 48 pixels (height x width)" in ended.err


def test_what_a_lost_pixel_enters_when_a_picture_is_resized_is_lost():
    mask = torch.ones(1, 1, 160, 160)
    mask[..., 70:78, 30:120] = 0
    picture = fit(Image.fromarray((mask[0, 0].numpy() * 200).astype("uint8")), 128)
    kept = fit_mask(mask, 128, 128)[0, 0] == 1
    mixed = torch.from_numpy(np.array(picture)).float() / 200
    assert float((mixed[kept] - 1).abs().max()) < 0.03 and 0.02 < float((~kept).float().mean()) < 0.06
    assert torch.equal(fit_mask(mask, 160, 160), mask)
