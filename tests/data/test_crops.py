"""Random crops: a function of their number, from anywhere in an image, shrunk at most as far as is said."""

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiffusion.data.crops import Crops
from flashdiffusion.errors import InputError


@pytest.fixture
def ramps(tmp_path):
    """Two images whose red tells the column and green the row, of 200x120 pixels, and one of 20x30."""
    for name, width, height in (("a", 200, 120), ("b", 200, 120), ("small", 20, 30)):
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        blue = np.full_like(rows, 50 if name == "a" else 100)
        Image.fromarray(np.stack([columns, rows, blue], axis=2).astype("uint8")).save(tmp_path / f"{name}.png")
    return tmp_path


def test_a_crop_is_a_function_of_its_number(ramps):
    crops, again = Crops([ramps], 32), Crops([ramps], 32, cache_gib=0)
    assert len(crops) == 3
    for index in (0, 1, 2, 3, 3001):
        assert torch.equal(crops[index], again[index])
    assert not torch.equal(crops[0], crops[3]), "another crop of the same image"
    assert [int(crops[index][2].float().mean()) for index in (0, 1, 3)] == [50, 100, 50]


def test_crops_come_from_anywhere_at_several_scales(ramps):
    crops = Crops([ramps / "a.png"], 32, smallest=0.5)
    items = torch.stack([crops[index] for index in range(200)]).float()
    assert items.shape == (200, 3, 32, 32)
    left, top = items[:, 0].amin(dim=(1, 2)), items[:, 1].amin(dim=(1, 2))
    assert left.min() < 15 and left.max() > 130 and top.min() < 10 and top.max() > 60
    side = items[:, 0].amax(dim=(1, 2)) - left  # of the square that was cut, less one
    assert 30 <= side.min() < 36 and 55 < side.max() <= 64
    assert (items[:, 0].amax(dim=(1, 2)) <= 199).all() and (items[:, 1].amax(dim=(1, 2)) <= 119).all()


def test_a_small_image_is_enlarged_and_a_damaged_one_replaced(ramps, capsys):
    (ramps / "b.png").write_bytes(b"no image")
    crops = Crops([ramps], 32)
    assert crops[2].shape == (3, 32, 32)
    with pytest.raises(InputError, match=r"b\.png"):
        crops[1]
    rows = crops.rows([0, 1, 2, 3, 4, 5, 7])
    assert rows.shape == (7, 3, 32, 32) and torch.equal(rows[3], crops[3]) and torch.equal(rows[4], crops[5])
    assert capsys.readouterr().err.count("left out") == 1, "said once, whatever crop is asked for"


@pytest.mark.parametrize("smallest", [0.0, 1.5])
def test_a_scale_that_cannot_be_is_refused(ramps, smallest):
    with pytest.raises(InputError, match="smallest is"):
        Crops([ramps], 32, smallest=smallest)
