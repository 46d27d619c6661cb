"""Every kind of mask file is read rightly, or refused with what was seen."""

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiffusion.errors import InputError
from flashdiffusion.physics.masks import read_mask

KEPT = np.random.default_rng(0).random((16, 24)) > 0.4


def _read(tmp_path, array, name="mask.png", **options):
    path = tmp_path / name
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **options)
    return read_mask(path)


@pytest.mark.parametrize("levels", [(0, 1), (0, 127), (0, 255), (1, 2), (64, 255), (127, 128)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_of_two_levels_the_brighter_is_kept(tmp_path, levels, mode):
    grey = Image.fromarray(np.where(KEPT, levels[1], levels[0]).astype(np.uint8))
    mask = _read(tmp_path, grey.convert(mode))
    assert mask.shape == (1, 1, 16, 24) and mask.dtype == torch.float32
    assert np.array_equal(mask[0, 0].numpy() == 1, KEPT)


def test_one_bit_sixteen_bits_and_palettes(tmp_path):
    palette = Image.fromarray(KEPT.astype(np.uint8), "L").convert("P")
    palette.putpalette([0, 0, 0, 255, 255, 255] + [0] * 750)
    deep = Image.fromarray(np.where(KEPT, 40000, 0).astype(np.uint16))
    for image in (Image.fromarray(KEPT), palette, deep):
        assert np.array_equal(_read(tmp_path, image)[0, 0].numpy() == 1, KEPT)


def test_alpha_alone_is_the_mask(tmp_path):
    for colour in (0, 255):
        image = np.full((16, 24, 4), colour, dtype=np.uint8)
        image[..., 3] = np.where(KEPT, 255, 0)
        assert np.array_equal(_read(tmp_path, image)[0, 0].numpy() == 1, KEPT)


def test_compression_does_not_change_a_mask_of_large_areas(tmp_path):
    kept = np.zeros((64, 64), dtype=bool)
    kept[:, 20:] = True
    mask = _read(tmp_path, np.where(kept, 255, 0).astype(np.uint8), "mask.jpg", quality=90)
    assert np.array_equal(mask[0, 0].numpy() == 1, kept)


@pytest.mark.parametrize(("value", "kept"), [(0, 0.0), (255, 1.0)])
def test_all_lost_and_all_kept(tmp_path, value, kept):
    assert _read(tmp_path, np.full((8, 8), value, dtype=np.uint8)).unique().tolist() == [kept]


def test_what_says_nothing_is_refused(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    channels = np.stack([np.where(KEPT, 255, 0), np.where(KEPT, 0, 255), np.where(KEPT, 255, 0)], 2).astype(np.uint8)
    both = np.dstack([np.where(KEPT, 255, 0)] * 3 + [np.where(KEPT, 0, 255)]).astype(np.uint8)
    for array, reason in (
        (ramp, "between 0 and 255"),
        (np.full((8, 8), 1, dtype=np.uint8), "the value 1 alone"),
        (channels, "differs from channel to channel"),
        (both, "both a varying alpha and varying colours"),
    ):
        with pytest.raises(InputError, match=reason):
            _read(tmp_path, array)
