"""What the page refuses before it reads it."""

import io
import zlib

import pytest
from PIL import Image

from flashdiffusion.app.drawing import write_mask
from flashdiffusion.app.limits import Limits
from flashdiffusion.errors import InputError

SMALL = Limits(megabytes=0.05, megapixels=0.01)


def _content(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""
    header = (60_000).to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    data = b"IHDR" + header
    pixels = (0).to_bytes(4) + b"IDAT" + zlib.crc32(b"IDAT").to_bytes(4)
    return b"\x89PNG\r\n\x1a\n" + len(header).to_bytes(4) + data + zlib.crc32(data).to_bytes(4) + pixels


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("text.png", b"hello", "text.png cannot be read as a picture"),
        ("empty.jpg", b"", "empty.jpg cannot be read as a picture"),
        ("bomb.png", _bomb(), "bomb.png cannot be read as a picture.*pixels"),
        ("heavy.png", b"x" * 60_000, "heavy.png has 0.1 MB; expected at most 0.05 MB"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg cannot be read as a picture"),
    ],
    ids=lambda one: one if isinstance(one, str) and "." in one[-4:] else "",
)
def test_a_wrong_file_is_refused_by_its_name(tmp_path, name, data, says):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=says) as refused:
        SMALL.check_file(path, name)
    assert str(tmp_path) not in str(refused.value)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path):
    Image.new("RGB", (200, 100)).save(path := tmp_path / "wide.png")
    with pytest.raises(InputError, match=r"100 x 200 pixels.*expected at most 0.01 megapixels"):
        SMALL.check_file(path, "wide.png")
    Limits().check_file(path, "wide.png")


def test_limits_that_leave_nothing_are_refused():
    with pytest.raises(InputError, match="waiting is 0"):
        Limits(waiting=0)


def test_a_mask_has_the_size_of_the_picture(tmp_path):
    Image.new("RGB", (60, 40)).save(picture := tmp_path / "picture.png")
    drawn = Image.new("RGBA", (30, 20))
    drawn.paste((255, 0, 0, 255), (5, 5, 10, 15))
    write_mask([_content(drawn)], picture, target := tmp_path / "mask.png")
    mask = Image.open(target)
    assert mask.size == (60, 40)
    assert mask.getpixel((15, 20)) == 0
    assert mask.getpixel((40, 20)) == 255
    with pytest.raises(InputError, match="nothing is drawn"):
        write_mask([_content(Image.new("RGBA", (30, 20)))], picture, target)


def test_a_drawing_is_bounded_before_it_is_read(tmp_path, monkeypatch):
    Image.new("RGB", (60, 40)).save(picture := tmp_path / "picture.png")
    one = _content(Image.new("RGBA", (3000, 2000)))
    monkeypatch.setattr(Image.Image, "convert", None)  # nothing of these is decoded
    for layers, says in (
        ([one], "has 2000 x 3000 pixels.*expected at most"),
        ([one] * 17, "17 layers"),
        ([_bomb()], "the drawing"),
        ([b"no picture"], "the drawing cannot be read"),
    ):
        with pytest.raises(InputError, match=says):
            write_mask(layers, picture, tmp_path / "mask.png")
