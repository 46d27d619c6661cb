import numpy as np
import pytest
import torch
from scipy import ndimage

from flashdiffusion.errors import InputError
from flashdiffusion.physics import BoxInpainting, RandomInpainting


def test_drops_all_channels_together_at_its_ratio():
    physics = RandomInpainting.from_ratio(
        torch.tensor([0.0, 0.3, 0.8, 1.0]), (64, 64), torch.Generator().manual_seed(0), 0.0
    )
    kept = physics.A(torch.ones(4, 3, 64, 64))
    assert torch.equal(kept[:, 0], kept[:, 1]) and torch.equal(kept[:, 0], kept[:, 2])
    dropped = 1 - kept.mean(dim=(1, 2, 3))
    torch.testing.assert_close(dropped, torch.tensor([0.0, 0.3, 0.8, 1.0]), atol=0.03, rtol=0)


def test_each_image_has_a_mask_of_its_own():
    mask = RandomInpainting.from_ratio(torch.tensor([0.5, 0.5]), (16, 16), torch.Generator().manual_seed(0)).params[
        "mask"
    ]
    assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("bad", [[-0.1], [1.1], [float("nan")]])
def test_refuses_ratio_out_of_range(bad):
    with pytest.raises(InputError, match="ratio"):
        RandomInpainting.from_ratio(torch.tensor(bad), (8, 8), torch.Generator())


def test_refuses_masks_that_are_none():
    with pytest.raises(InputError, match="shape"):
        RandomInpainting(torch.ones(1, 3, 8, 8))
    with pytest.raises(InputError, match="other than 0"):
        RandomInpainting(torch.full((1, 1, 8, 8), 0.5))
    with pytest.raises(InputError, match="one size"):
        RandomInpainting(torch.ones(1, 1, 8, 8)).A(torch.zeros(1, 3, 16, 16))


def test_a_box_loses_its_pixels_and_no_others():
    y = BoxInpainting([2, 0], [5, 0], [3, 8], [4, 12]).A(torch.ones(2, 3, 8, 12))
    assert not y[0, :, 2:5, 5:9].any() and float((1 - y[0, 0]).sum()) == 12
    assert not y[1].any()


def test_a_box_loses_even_values_that_are_no_numbers():
    x = torch.full((1, 3, 8, 8), float("nan"))
    assert float(BoxInpainting([0], [0], [8], [8]).A(x).abs().max()) == 0


def test_drawn_boxes_are_squares_within_the_image():
    side = torch.linspace(0, 1, 50)
    physics = BoxInpainting.from_side(side, (24, 36), torch.Generator().manual_seed(0))
    lost = 1 - physics.A(torch.ones(50, 1, 24, 36))
    assert lost.sum(dim=(1, 2, 3)).tolist() == (side * 24).round().square().tolist()
    assert len(physics.params["left"].unique()) > 10


@pytest.mark.parametrize("bad", [[-1], [1.5], [float("nan")], [], [1, 2]])
def test_refuses_boxes_that_are_none(bad):
    with pytest.raises(InputError, match="box"):
        BoxInpainting([1, 1, 1], [1], bad, [1])
    with pytest.raises(InputError, match="box side"):
        BoxInpainting.from_side(torch.tensor([1.5]), (8, 8), torch.Generator())


def test_refuses_a_box_outside_the_image():
    with pytest.raises(InputError, match="does not fit images of 8 x 8 pixels"):
        BoxInpainting([4], [0], [5], [5]).A(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("width", [0.03, 0.2])
def test_a_scribble_is_one_line_of_its_width(width):
    generator = torch.Generator().manual_seed(0)
    lost = RandomInpainting.scribbled(torch.full((6,), width), (128, 96), generator).params["mask"] == 0
    assert not torch.equal(lost[0], lost[1])
    for one in lost[:, 0].numpy():
        assert ndimage.label(one, structure=np.ones((3, 3)))[1] == 1
        assert ndimage.distance_transform_edt(one).max() >= 0.8 * width * 96 / 2
