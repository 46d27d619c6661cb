"""Bytes of every kind of image to 8-bit RGB, and float tensors to files and back."""

import io
import os
import socket
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from flashdiffusion.data import decode_image, fit, load_image, save_grid, save_image
from flashdiffusion.data.decoding import FORMATS, SUFFIXES
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


def test_fit_keeps_the_centre():
    image = Image.new("RGB", (8, 4), "black")
    image.paste((10, 20, 30), (2, 0, 6, 4))
    fitted = fit(image, 4)
    assert fitted.size == (4, 4)
    assert {colour for _, colour in fitted.getcolors()} == {(10, 20, 30)}


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_grey_of_sixteen_bits_keeps_them(tmp_path, mode, kind):
    values = np.array([[0, 1, 300], [257, 40_000, 65_535]], dtype=">u2" if mode == "I;16B" else "<u2")
    Image.frombytes(mode, (3, 2), values.tobytes()).save(tmp_path / "deep", kind)
    torch.testing.assert_close(
        load_image(tmp_path / "deep"), torch.from_numpy(values.astype(np.float32) / 65535).expand(3, -1, -1)
    )


def _png16(channels: int, colour_type: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(4 * channels * 2)) * 4)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_depths_that_pillow_would_cut_or_whose_range_is_unknown_are_refused():
    with pytest.raises(InputError, match=r"deep: PPM of 16 bits; expected 8 bits a channel, or 16 as PNG or TIFF"):
        decode_image(b"P6 2 2 65535 " + bytes(24), "deep")
    for mode in ("I", "F"):
        with pytest.raises(InputError, match=f"deep: {mode} image, whose range is not known; expected 8 or 16 bits"):
            decode_image(_encoded(Image.new(mode, (4, 4)), "TIFF"), "deep")


@pytest.mark.parametrize(("channels", "colour_type"), [(3, 2), (4, 6), (2, 4)])
def test_colours_of_sixteen_bits_are_read_with_eight_for_networks_and_that_is_said(channels, colour_type):
    image = decode_image(_png16(channels, colour_type), "deep")
    assert image.mode == "RGB" and "has 16 bits; 8 of them are read" in image.info["notes"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("error", [SyntaxError, TypeError, KeyError, struct.error, RecursionError, MemoryError])
def test_metadata_that_raises_anything_costs_only_itself(monkeypatch, kind, error):
    data = _encoded(Image.new("RGB", (8, 8), (10, 20, 30)), kind)

    def raising(self: Image.Image) -> Image.Exif:
        raise error

    monkeypatch.setattr(Image.Image, "getexif", raising)
    image = decode_image(data, "odd")
    assert image.size == (8, 8) and "that cannot be read" in image.info["notes"][0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_garbage_in_exif_costs_only_itself(kind):
    image = decode_image(_encoded(Image.new("RGB", (8, 8)), kind, exif=b"Exif\0\0garbage!"), "odd")
    assert image.size == (8, 8)


def test_text_too_long_to_unpack_is_left_out():
    text = PngInfo()
    text.add_text("Comment", "a" * 5_000_000, zip=True)
    image = decode_image(_encoded(Image.new("RGB", (8, 8), (1, 2, 3)), pnginfo=text), "long")
    assert image.getpixel((0, 0)) == (1, 2, 3)
    assert "has metadata that cannot be read" in image.info["notes"][0]


def test_a_colour_profile_is_applied_even_to_images_with_alpha():
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    plain = Image.new("RGB", (4, 4), (200, 40, 40))
    assert decode_image(_encoded(plain, icc_profile=bytes(profile)), "srgb").getpixel((0, 0)) == (200, 40, 40)
    red, green = bytes(profile).index(b"rXYZ"), bytes(profile).index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"  # red and green change places
    for mode in ("RGB", "RGBA"):
        data = _encoded(plain.convert(mode), icc_profile=bytes(profile))
        assert decode_image(data, "swapped").getpixel((0, 0)) == pytest.approx((40, 200, 40), abs=2)


def test_a_broken_colour_profile_is_noted():
    image = decode_image(_encoded(Image.new("RGB", (4, 4), (9, 8, 7)), icc_profile=b"nonsense"), "odd")
    assert image.getpixel((0, 0)) == (9, 8, 7)
    assert "has a colour profile that cannot be applied" in image.info["notes"][0]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_frames_the_first_is_taken_and_that_is_said(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    image = decode_image(_encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True), "many")
    assert image.getpixel((4, 4)) == (255, 0, 0)
    assert any("has 3 frames; the first is taken" in note for note in image.info["notes"])


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PSD", "WMF", "FITS"])
def test_what_is_no_plain_raster_image_is_refused_unopened(kind):
    data = {"PSD": b"8BPS\0\1", "WMF": b"\xd7\xcd\xc6\x9a", "FITS": b"SIMPLE  ="}.get(kind, b"")
    if kind in {"EPS", "PDF"}:
        data = _encoded(Image.new("RGB", (8, 8)), kind)
    with pytest.raises(InputError, match=r"disguised\.png: not an image that can be read"):
        decode_image(data, "disguised.png")


def test_the_suffixes_are_those_of_the_formats():
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert known - {".pfm"} == SUFFIXES  # floats without a range


def test_pipes_sockets_devices_folders_and_circles_of_links_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    os.mkfifo("pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    Path("folder.png").mkdir()
    Path("circle.png").symlink_to("circle.png")
    Path("device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "socket.png", "folder.png", "circle.png", "device.png", "/dev/zero", "a\0b.png"):
        with pytest.raises(InputError, match="cannot read"):
            load_image(name)


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

    def slow_open(stream, **options):
        time.sleep(0.001)  # other threads run now
        return real(stream, **options)

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
    save_grid([red, blue], tmp_path / "grid.png")
    grid = load_image(tmp_path / "grid.png")
    assert grid.shape == (3, 8, 8)
    assert grid[:, 0, 0].tolist() == [1, 0, 0]
    assert grid[:, 7, 0].tolist() == [0, 0, 0]
    assert grid[:, 7, 7].tolist() == [0, 0, 1]
