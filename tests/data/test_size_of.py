"""The size of an image file, without its pixels."""

import pytest
from PIL import Image

from flashdiffusion.data import load_image
from flashdiffusion.data.decoding import size_of


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_it_is_that_of_the_image_as_it_is_read(tmp_path, suffix, orientation):
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (24, 32)).save(path, exif=exif)
    assert size_of(path) == tuple(load_image(path).shape[1:])
