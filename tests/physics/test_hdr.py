import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import HDR


def test_is_clipping_on_the_network_scale():
    x = torch.linspace(0, 1, 3 * 64).view(1, 3, 8, 8)
    expected = ((2 * (2 * x - 1)).clamp(-1, 1) + 1) / 2
    torch.testing.assert_close(HDR([2.0]).A(x), expected)


def test_scale_one_is_the_identity():
    x = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(HDR([1.0]).A(x), x)


@pytest.mark.parametrize("bad", [[0.9], [float("inf")], [float("nan")], 0.5])
def test_refuses_scales_that_are_none(bad):
    with pytest.raises(InputError, match="hdr scale is"):
        HDR(bad)
