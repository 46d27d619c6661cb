"""Pictures of every kind, read as they are stored and written alike."""

import io
import struct
import sys

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from flashdiffusion.data import Kind, MeasurementFile, encode_picture
from flashdiffusion.data.pictures import decode_picture, from_pillow
from flashdiffusion.errors import CheckpointError, InputError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]
RNG = np.random.default_rng(0)
MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _again(data: bytes) -> bytes:
    picture = decode_picture(data, "picture")
    return encode_picture(picture.values, picture.kind)


def _levels(channels: int, bits: int) -> np.ndarray:
    levels = RNG.integers(0, 2**bits, (9, 7, channels)).astype(np.uint8 if bits == 8 else np.uint16)
    return levels[..., 0] if channels == 1 else levels


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("profile", [None, SRGB])
def test_eight_bits_alpha_and_profile_come_back_as_they_were(mode, profile):
    if profile is not None and mode in {"L", "LA"}:
        profile = GREY
    levels = _levels(MODES[mode], 8)
    with Image.open(io.BytesIO(_again(_encoded(Image.fromarray(levels, mode), icc_profile=profile)))) as image:
        assert image.mode == mode and np.array_equal(np.asarray(image), levels)
        assert image.info.get("icc_profile") == profile


@pytest.mark.parametrize(
    ("kind", "channels"), [("png", 1), ("png", 2), ("png", 3), ("png", 4), ("tiff", 1), ("tiff", 3), ("tiff", 4)]
)
def test_sixteen_bits_stay_sixteen(channels, kind):
    levels = _levels(channels, 16)
    data = getattr(imagecodecs, f"{kind}_encode")(levels)
    picture = decode_picture(data, "deep")
    assert (picture.kind.bits, picture.kind.grey) == (16, channels < 3)
    assert np.array_equal(imagecodecs.png_decode(encode_picture(picture.values, picture.kind)), levels)


@pytest.mark.parametrize("grey", [False, True])
def test_a_profile_is_kept_beside_sixteen_bits(grey):
    profile = GREY if grey else SRGB
    kind = Kind(grey, 16, torch.ones(1, 4, 5), profile)
    written = encode_picture(torch.rand(3, 4, 5), kind)
    with Image.open(io.BytesIO(written)) as image:
        image.load()  # checks the chunks
        assert image.info["icc_profile"] == profile
    assert decode_picture(written, "again").kind.profile == profile


def test_a_profile_of_other_colours_is_left_out_and_that_is_said():
    for profile, mode in ((SRGB, "L"), (GREY, "RGB"), (b"nonsense", "RGB")):
        picture = decode_picture(_encoded(Image.new(mode, (4, 4)), icc_profile=profile), "odd")
        assert picture.kind.profile is None and "has a colour profile that is none of" in picture.notes[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_the_camera_s_rotation_is_applied_to_colours_and_alpha(orientation, bits):
    from PIL import ImageOps

    small = RNG.integers(0, 256, (3, 5, 4)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encoded(Image.fromarray(small), exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    if bits == 16:  # the chunk of EXIF, put after the header
        at = data.index(b"eXIf") - 4
        chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4])]
        deep = imagecodecs.png_encode(np.ascontiguousarray(small.astype(np.uint16) * 257))
        data = deep[:33] + chunk + deep[33:]
    picture = decode_picture(data, "turned")
    stored = torch.cat([picture.values, picture.kind.alpha])
    assert np.array_equal((stored * 255).round().numpy().astype(np.uint8), expected.transpose(2, 0, 1))


def test_transparency_of_a_palette_or_one_colour_becomes_alpha():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((0, 0), 0)
    for data in (
        _encoded(image, transparency=0),
        _encoded(image.convert("RGB"), transparency=(10, 20, 30)),
        _encoded(image, "GIF", transparency=0),
    ):
        with Image.open(io.BytesIO(_again(data))) as again:
            assert again.mode == "RGBA" and again.getpixel((1, 1)) == (200, 100, 0, 255)
            assert again.getpixel((0, 0))[3] == 0


def test_one_bit_is_grey_and_cmyk_becomes_rgb_and_that_is_said():
    assert decode_picture(_encoded(Image.new("1", (4, 4), 1)), "bits").kind.grey
    picture = decode_picture(_encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", quality=100), "print")
    assert "has mode CMYK; converted to RGB" in picture.notes and picture.kind.profile is None
    assert torch.allclose(picture.values[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]), atol=0.02)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_frames_or_pages_the_first_is_taken_and_that_is_said(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    data = _encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    picture = decode_picture(data, "many")
    assert picture.values[:, 4, 4].tolist() == [1.0, 0.0, 0.0]
    assert any("has 3 frames; the first is taken" in note for note in picture.notes)


@pytest.mark.parametrize("bits", [8, 16])
def test_fitting_keeps_the_kind(bits):
    data = imagecodecs.png_encode(_levels(4, bits))
    picture = decode_picture(data, "fit").fitted(4, 4)
    assert picture.size == (4, 4) and picture.kind.alpha.shape == (1, 4, 4) and picture.kind.bits == bits
    flat = decode_picture(imagecodecs.png_encode(np.full((9, 7, 3), 20_000, np.uint16)), "flat").fitted(5, 5)
    torch.testing.assert_close(flat.values, torch.full((3, 5, 5), 20_000 / 65535))


def test_alpha_follows_a_result_of_another_size():
    written = encode_picture(torch.rand(3, 8, 8), Kind(alpha=torch.ones(1, 4, 4)))
    with Image.open(io.BytesIO(written)) as image:
        assert image.mode == "RGBA" and image.size == (8, 8) and image.getextrema()[3] == (255, 255)


def test_a_damaged_deep_file_and_a_missing_library_are_refused_in_one_line(monkeypatch):
    data = imagecodecs.png_encode(_levels(3, 16))
    with pytest.raises(InputError, match="deep: damaged or truncated image"):
        decode_picture(data[: len(data) // 2], "deep")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(InputError, match="deep: 16 bits a channel need imagecodecs; pip install imagecodecs"):
        decode_picture(data, "deep")
    with pytest.raises(InputError, match="PNG of 16 bits a channel needs imagecodecs; pip install imagecodecs"):
        encode_picture(torch.rand(3, 4, 4), Kind(bits=16))
    assert encode_picture(torch.rand(1, 4, 4), Kind(True, 16))  # grey without alpha does not


@pytest.mark.parametrize("kind", [Kind(), Kind(True, 16, torch.rand(1, 8, 8), SRGB)])
def test_a_measurement_file_holds_the_kind(tmp_path, kind):
    path = tmp_path / "m.safetensors"
    file = MeasurementFile("a", torch.rand(3, 8, 8), "gaussian-blur", {"std": torch.ones(1)}, 0.05, kind=kind)
    file.save(path)
    loaded = MeasurementFile.load(path)
    assert loaded.params.keys() == {"std"}
    assert (loaded.kind.grey, loaded.kind.bits, loaded.kind.profile) == (kind.grey, kind.bits, kind.profile)
    assert loaded.kind.alpha is kind.alpha is None or torch.equal(loaded.kind.alpha, kind.alpha)


def test_a_measurement_file_of_no_such_kind_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    for kind in (Kind(bits=12), Kind(alpha=torch.ones(2, 8, 8))):
        MeasurementFile("a", torch.rand(3, 8, 8), "gaussian-blur", {"std": torch.ones(1)}, 0.05, kind=kind).save(path)
        with pytest.raises(CheckpointError, match="expected 8 or 16, and alpha"):
            MeasurementFile.load(path)


def test_the_limit_of_size_is_raised_by_the_environment(monkeypatch):
    data = _encoded(Image.new("RGB", (1500, 1000)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(InputError, match=r"at most 1 megapixels; to take more, set .* FLASHDIFFUSION_MAX_MEGAPIXELS"):
        decode_picture(data, "panorama")
    monkeypatch.setenv("FLASHDIFFUSION_MAX_MEGAPIXELS", "2")
    assert decode_picture(data, "panorama").size == (1000, 1500)
    for text in ("many", "-1", "nan"):
        monkeypatch.setenv("FLASHDIFFUSION_MAX_MEGAPIXELS", text)
        with pytest.raises(InputError, match=f"MAX_MEGAPIXELS is '{text}'; expected a number of megapixels"):
            decode_picture(data, "panorama")


def test_a_pillow_image_keeps_its_kind():
    picture = from_pillow(Image.new("LA", (4, 3), (100, 50)))
    assert (
        picture.size == (3, 4) and picture.kind.grey and picture.kind.alpha.unique().item() == pytest.approx(50 / 255)
    )
    deep = from_pillow(Image.new("I;16", (4, 3), 9999))
    assert deep.kind.bits == 16 and deep.values.unique().item() == pytest.approx(9999 / 65535)


def _tiff(levels: np.ndarray, orientation: int) -> bytes:
    """RGB of 16 bits, uncompressed, as no library here writes it with an orientation."""
    height, width = levels.shape[:2]
    size, begin = levels.nbytes, 8 + 2 + 10 * 12 + 4 + 6
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, begin - 6), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, begin), (274, 3, 1, orientation), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, size)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    return header + entries + struct.pack("<IHHH", 0, 16, 16, 16) + levels.astype("<u2").tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_of_sixteen_bits_is_turned_as_one_of_eight(orientation):
    levels = _levels(3, 8)
    eight = io.BytesIO()
    Image.fromarray(levels).save(eight, "TIFF", tiffinfo={0x0112: orientation})
    expected = decode_picture(eight.getvalue(), "eight").values
    picture = decode_picture(_tiff(levels.astype(np.uint16) * 257, orientation), "sixteen")
    assert picture.kind.bits == 16 and torch.equal(picture.values, expected)


def test_a_pillow_image_is_left_as_it_was_and_one_of_unknown_range_refused():
    image = Image.new("CMYK", (4, 4), (10, 20, 30, 40))
    image.info["icc_profile"] = b"profile"
    from_pillow(image)
    assert image.info["icc_profile"] == b"profile"
    for mode in ("I", "F"):
        with pytest.raises(InputError, match=f"image of mode {mode}, of unknown range"):
            from_pillow(Image.new(mode, (4, 4)))
