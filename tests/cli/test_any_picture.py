"""Pictures of any size and kind through `degrade`, `severity` and `restore`: each comes back as it was."""

import json

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from flashdiffusion import GaussianBlur
from flashdiffusion.data import MeasurementFile
from flashdiffusion.data.pictures import read_picture

BLUR = ("--physics", "gaussian-blur:std=1")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SIZE = (37, 29)  # width and height, neither a multiple of the model's unit


def _picture(folder, image_folder, kind: str):
    """A picture of this kind, and the name of its file."""
    image = Image.open(image_folder / "image-00.png").crop((0, 0, *SIZE))
    path = folder / "a.png"
    if kind == "deep":
        path = folder / "a.tif"
        path.write_bytes(imagecodecs.tiff_encode(np.asarray(image).astype(np.uint16) * 257 + 3))
    elif kind == "alpha":
        image.putalpha(Image.linear_gradient("L").resize(SIZE))
        image.save(path, icc_profile=SRGB)
    else:
        image.convert(kind).save(path)
    return path


@pytest.mark.parametrize(("kind", "mode"), [("L", "L"), ("RGB", "RGB"), ("alpha", "RGBA"), ("deep", "deep")])
def test_size_and_kind_are_kept_through_degrade_and_restore(flash, tmp_path, image_folder, tiny_model, kind, mode):
    path = _picture(tmp_path, image_folder, kind)
    assert flash("degrade", path, *BLUR, "--out", tmp_path / "m").code == 0
    assert MeasurementFile.load(tmp_path / "m" / "a.safetensors").y.shape == (3, SIZE[1], SIZE[0])
    options = ("--method", "ae", "--model", tiny_model, "--maps", tmp_path / "maps", "--out", tmp_path / "o")
    for given, physics in ((tmp_path / "m" / "a.safetensors", ()), (path, BLUR)):
        ended = flash("restore", given, *physics, *options, "--reference", path.parent)
        assert ended.code == 0, ended.err
        for written in (tmp_path / "m" / "a.png", tmp_path / "o" / "a.png"):
            before, after = read_picture(path), read_picture(written)
            assert after.size == before.size == SIZE[::-1]
            assert (after.kind.bits, after.kind.grey) == (before.kind.bits, before.kind.grey)
            assert after.kind.profile == before.kind.profile
            if mode == "RGBA":
                assert np.array_equal(after.kind.alpha, before.kind.alpha)
            if mode != "deep":
                with Image.open(written) as image:
                    assert image.mode == mode
        with Image.open(tmp_path / "maps" / "a.png") as picture:
            assert picture.size == SIZE
    ended = flash("severity", path, "--model", tiny_model, "--maps", tmp_path / "maps")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("kind", ["L", "alpha", "deep"])
def test_a_picture_that_super_resolution_cannot_divide_is_cut(flash, tmp_path, image_folder, tiny_model, kind):
    path, even = _picture(tmp_path, image_folder, kind), tmp_path / "even"
    even.mkdir()
    Image.new("RGB", (16, 16)).save(even / "b.png")
    ended = flash("degrade", path, even, "--physics", "super-resolution:factor=4", "--out", tmp_path / "m")
    assert ended.code == 0
    said = "cut below and to the right, to sides that super-resolution divides: 1 of 2 images; first: "
    sizes = "29 x 37 pixels (height x width), to 28 x 36 pixels (height x width)"
    assert ended.err == f"flashdiffusion: note: {said}{path}, {sizes}\n"
    assert MeasurementFile.load(tmp_path / "m" / "a.safetensors").y.shape == (3, 7, 9)
    options = ("--method", "ae", "--model", tiny_model, "--reference", path.parent, "--out", tmp_path / "o")
    assert flash("restore", tmp_path / "m" / "a.safetensors", *options).code == 0
    before = read_picture(path)
    for written in (tmp_path / "m" / "a.png", tmp_path / "o" / "a.png"):
        after = read_picture(written)
        assert after.size == (28, 36) and after.kind.profile == before.kind.profile
        assert (after.kind.bits, after.kind.grey) == (before.kind.bits, before.kind.grey)
        if kind == "alpha":
            assert np.array_equal(after.kind.alpha, before.kind.alpha[:, :28, :36])
    # What is compared with is cut alike.
    assert _measured(tmp_path / "o" / "results.json") == pytest.approx(_measured(tmp_path / "m" / "degrade.json"))


def _measured(results):
    """PSNR of the first measurement, against the true image."""
    return json.loads(results.read_text())["records"][0]["measurement_psnr"]


def test_a_size_that_super_resolution_cannot_divide_is_made_smaller(flash, tmp_path, image_folder, tiny_model):
    path, physics = image_folder / "image-00.png", ("--physics", "super-resolution:factor=3")
    ended = flash("degrade", path, *physics, "--size", 32, "--out", tmp_path / "m")
    assert ended.code == 0 and "made smaller than 32 x 32 pixels, to sides that" in ended.err
    assert f"1 of 1 image; first: {path}, 32 x 32 pixels, to 30 x 30 pixels" in ended.err
    options = ("--method", "ae", "--model", tiny_model, "--reference", path, "--out", tmp_path / "o")
    assert flash("restore", tmp_path / "m", *options).code == 0
    assert _measured(tmp_path / "o" / "results.json") == pytest.approx(_measured(tmp_path / "m" / "degrade.json"))


def test_the_mask_of_a_picture_that_is_cut_is_cut_with_it(flash, tmp_path, image_folder):
    path, mask = _picture(tmp_path, image_folder, "RGB"), np.full(SIZE[::-1], 255, np.uint8)
    mask[5:9, 20:30] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    physics = f"random-inpainting:mask={tmp_path / 'mask.png'}+super-resolution:factor=4"
    assert flash("degrade", path, "--physics", physics, "--out", tmp_path / "m").code == 0
    kept = MeasurementFile.load(tmp_path / "m" / "a.safetensors").params
    assert np.array_equal(kept["first.mask"][0, 0] * 255, mask[:28, :36])


def test_a_picture_smaller_than_the_factor_is_refused(flash, tmp_path):
    Image.new("RGB", (37, 3)).save(tmp_path / "a.png")
    ended = flash("degrade", tmp_path / "a.png", "--physics", "super-resolution:factor=4", "--out", tmp_path / "m")
    assert ended.code == 2 and "expected sides that are multiples of 4: take larger images" in ended.err


def test_fit_crops_and_resizes_to_the_embedded_model_s_size(flash, tmp_path, image_folder):
    path = _picture(tmp_path, image_folder, "alpha")
    for options, side in (((), None), (("--fit",), 128), (("--fit", "--size", 24), 24), (("--size", 24), 24)):
        assert flash("degrade", path, *BLUR, *options, "--out", tmp_path / "m").code == 0
        file = MeasurementFile.load(tmp_path / "m" / "a.safetensors")
        assert file.y.shape == (3, *((side, side) if side else SIZE[::-1]))
        assert file.kind.alpha.shape[1:] == file.y.shape[1:] and file.fitted == (side is not None)


def test_what_alpha_says_was_lost_does_not_stay_transparent(flash, tmp_path, image_folder, tiny_model):
    path, mask = _picture(tmp_path, image_folder, "RGB"), Image.new("L", SIZE, 255)
    mask.paste(0, (5, 5, 20, 20))
    image = Image.open(path)
    image.putalpha(mask)
    image.save(path)
    holes = ("--physics", "random-inpainting:mask=alpha")
    assert flash("degrade", path, *holes, "--out", tmp_path / "m").code == 0
    for given, physics in ((tmp_path / "m", ()), (path, holes)):
        ended = flash("restore", given, *physics, "--method", "ae", "--model", tiny_model, "--out", tmp_path / "o")
        assert ended.code == 0, ended.err
        with Image.open(tmp_path / "o" / "a.png") as restored:
            assert (restored.mode, restored.size) == ("RGB", SIZE)


def test_files_that_cannot_be_used_are_named_and_the_others_go_on(
    flash, tmp_path, image_folder, tiny_model, monkeypatch
):
    folder = tmp_path / "in"
    folder.mkdir()
    _picture(folder, image_folder, "RGB")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (10_000, 1)).save(folder / "line.png")
    Image.new("F", (32, 32)).save(folder / "float.tif")
    Image.new("RGB", (400, 300)).save(folder / "panorama.png")
    Image.new("CMYK", (32, 32)).save(folder / "print.jpg")
    pages = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    ended = flash("restore", folder, *BLUR, "--method", "ae", "--model", tiny_model, "--out", tmp_path / "o")
    assert ended.code == 1, ended.err
    assert {path.name for path in (tmp_path / "o").glob("*.png")} == {"a.png", "print.png", "pages.png"}
    for text in (
        "dot.png: images of 1 x 1 pixels; expected at least 8 pixels a side",
        "line.png: images of 1 x 10000 pixels (height x width); expected at least 8 pixels a side",
        "float.tif: F image, whose range is not known; expected 8 or 16 bits a channel",
        "panorama.png: too large",
        "megapixels; to take more, set the environment variable FLASHDIFFUSION_MAX_MEGAPIXELS",
        "print.jpg has mode CMYK; converted to RGB",
        "pages.tif has 2 frames; the first is taken",
    ):
        assert sum(text in line for line in ended.err.splitlines()) == 1, (text, ended.err)
    assert "--fit" not in ended.err  # which would leave nothing of a dot and of a line


def test_pictures_keep_their_kind_in_python_too(tmp_path, image_folder, tiny_pipeline):
    paths = [_picture(tmp_path, image_folder, kind) for kind in ("alpha", "deep")]
    given = [paths[0], paths[1], Image.open(paths[0]).convert("L")]
    restored = tiny_pipeline(given, GaussianBlur(1.0), method="ae", ids=["alpha", "deep", "grey"], num_samples=2)
    assert restored.images.shape == (3, 3, *SIZE[::-1]) and restored[:1].shape == (1, 3, *SIZE[::-1])
    written = {path.stem: read_picture(path).kind for path in restored.save(tmp_path / "out")}
    assert written["alpha"].profile == SRGB and written["alpha-sample-2"].alpha is not None
    assert (written["deep"].bits, written["deep"].alpha) == (16, None) and written["grey"].grey
