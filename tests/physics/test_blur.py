import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from flashdiffusion.errors import InputError
from flashdiffusion.physics import GaussianBlur


def _x(size=(40, 32)):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("std", [0.4, 1.0, 2.3, 3.0])
def test_equals_scipys_gaussian_filter(std):
    expected = gaussian_filter(_x()[0].numpy(), sigma=(0, std, std), mode="mirror", radius=int(np.ceil(4 * std)))
    torch.testing.assert_close(GaussianBlur([std]).A(_x())[0], torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_zero_std_is_the_identity():
    assert torch.equal(GaussianBlur([0.0]).A(_x()), _x())


def test_keeps_a_constant_image():
    x = torch.full((3, 3, 16, 16), 0.7)
    torch.testing.assert_close(GaussianBlur([0.5, 1.0, 3.0]).A(x), x)


def test_an_images_kernel_does_not_depend_on_its_neighbours():
    x = _x().expand(2, -1, -1, -1)
    assert torch.equal(GaussianBlur([0.6, 3.0]).A(x)[:1], GaussianBlur([0.6]).A(x[:1]))


@pytest.mark.parametrize("bad", [[-1.0], [float("nan")], [51.0], [[1.0]]])
def test_refuses_std_out_of_range(bad):
    with pytest.raises(InputError, match="blur std"):
        GaussianBlur(bad)


def test_refuses_images_smaller_than_the_kernel():
    with pytest.raises(InputError, match="more than 12 pixels"):
        GaussianBlur([3.0]).A(torch.zeros(1, 3, 12, 12))
