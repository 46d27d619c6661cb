"""Bytes of every kind of image to 8-bit RGB, and float tensors to files and back."""

import io
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiffusion.data import decode_image, fit_square, load_image, save_grid, save_image
from flashdiffusion.errors import InputError


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_eight_bit_values_survive_a_round_trip(tmp_path):
    levels = torch.arange(256).view(1, 16, 16).expand(3, -1, -1) / 255
    save_image(levels, tmp_path / "levels.png")
    assert torch.equal(load_image(tmp_path / "levels.png"), levels)


def test_values_outside_the_range_are_clipped(tmp_path):
    image = torch.tensor([-0.4, 0.0, 1.0, 1.7]).view(1, 2, 2).expand(3, -1, -1)
    save_image(image, tmp_path / "clipped.png")
    assert torch.equal(load_image(tmp_path / "clipped.png"), image.clamp(0, 1))


def test_grey_becomes_three_equal_channels():
    image = decode_image(_encoded(Image.new("L", (5, 4), 77)), "grey")
    assert image.mode == "RGB" and image.info["mode"] == "L"
    assert np.asarray(image).tolist() == [[[77] * 3] * 5] * 4


def test_alpha_is_laid_on_white():
    colours = {255: (200, 100, 0), 0: (255, 255, 255)}
    for alpha, expected in colours.items():
        image = decode_image(_encoded(Image.new("RGBA", (3, 3), (200, 100, 0, alpha))), "transparent")
        assert image.getpixel((1, 1)) == expected


def test_the_camera_s_rotation_is_applied():
    upright = Image.new("RGB", (6, 4), "white")
    upright.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image = decode_image(_encoded(upright, exif=exif), "rotated")
    assert image.size == (4, 6)
    assert image.getpixel((3, 0)) == (255, 0, 0)


def test_fit_square_keeps_the_centre():
    image = Image.new("RGB", (8, 4), "black")
    image.paste((10, 20, 30), (2, 0, 6, 4))
    fitted = fit_square(image, 4)
    assert fitted.size == (4, 4)
    assert {colour for _, colour in fitted.getcolors()} == {(10, 20, 30)}


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_images_of_more_than_eight_bits_are_refused(mode):
    with pytest.raises(InputError, match=f"deep: {mode} image; expected 8-bit"):
        decode_image(_encoded(Image.new(mode, (4, 4)), "TIFF"), "deep")


@pytest.mark.parametrize(("area", "accepted"), [(100, True), (99, False), (49, False)])
def test_an_image_beyond_pillows_limit_is_refused(monkeypatch, area, accepted):
    data = _encoded(Image.new("RGB", (10, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", area)
    if accepted:
        assert decode_image(data, "big").size == (10, 10)
    else:
        with pytest.raises(InputError, match="big: too large"):
            decode_image(data, "big")


def test_decoding_in_threads_refuses_all_bombs_and_leaves_the_warning_filters_alone(monkeypatch):
    """`warnings.catch_warnings` swaps a global; two threads inside it at once undo each other's filters."""
    data = _encoded(Image.new("RGB", (10, 10)))
    real = Image.open

    def slow_open(stream):
        time.sleep(0.001)  # other threads run now
        return real(stream)

    monkeypatch.setattr(Image, "open", slow_open)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        before = list(warnings.filters)

        def refused(_: int) -> bool:
            try:
                decode_image(data, "bomb")
            except InputError:
                return True
            return False

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(refused, range(100)))
        assert warnings.filters == before


def test_damaged_data_names_the_file():
    whole = _encoded(Image.effect_noise((64, 64), 100))
    for data in (b"not an image", b"", whole[: len(whole) // 2]):
        with pytest.raises(InputError, match=r"broken\.png: (not an image|damaged or truncated)"):
            decode_image(data, "broken.png")


def test_a_grid_holds_its_rows_and_columns(tmp_path):
    red, blue = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    red[:, 0], blue[1, 2] = 1, 1
    save_grid([red, blue], tmp_path / "grid.png", scale=2)
    grid = load_image(tmp_path / "grid.png")
    assert grid.shape == (3, 16, 16)
    assert grid[:, 0, 0].tolist() == [1, 0, 0]
    assert grid[:, 15, 0].tolist() == [0, 0, 0]
    assert grid[:, 15, 15].tolist() == [0, 0, 1]
