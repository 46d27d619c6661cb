import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import RandomInpainting


def test_drops_all_channels_together_at_its_ratio():
    physics = RandomInpainting.from_ratio(
        torch.tensor([0.0, 0.3, 0.8, 1.0]), (64, 64), torch.Generator().manual_seed(0), 0.0
    )
    kept = physics.A(torch.ones(4, 3, 64, 64))
    assert torch.equal(kept[:, 0], kept[:, 1]) and torch.equal(kept[:, 0], kept[:, 2])
    dropped = 1 - kept.mean(dim=(1, 2, 3))
    torch.testing.assert_close(dropped, torch.tensor([0.0, 0.3, 0.8, 1.0]), atol=0.03, rtol=0)


def test_each_picture_has_a_mask_of_its_own():
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
        RandomInpainting(torch.ones(1, 8, 8))
    with pytest.raises(InputError, match="other than 0"):
        RandomInpainting(torch.full((1, 1, 8, 8), 0.5))
    with pytest.raises(InputError, match="same size"):
        RandomInpainting(torch.ones(1, 1, 8, 8)).A(torch.zeros(1, 3, 16, 16))
