import math

import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import PhaseRetrieval


def _x(height=24, width=20):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("oversampling", [0.0, 1.0, 2.0, 3.7, 8.0])
@pytest.mark.parametrize("size", [(24, 20), (17, 33)])
def test_measures_the_padded_frequencies_and_finds_the_size_again(oversampling, size):
    physics = PhaseRetrieval([oversampling] * 2)
    y = physics.A(_x(*size))
    assert y.shape[2:] == tuple(s + 2 * math.floor(oversampling / 8 * s) for s in size)
    assert physics.image(y).shape[2:] == size


def test_keeps_the_norm():
    x = _x()
    torch.testing.assert_close(PhaseRetrieval([2.0, 2.0]).A(x).norm(), x.norm())


def test_a_turned_image_measures_alike():
    physics = PhaseRetrieval([2.0, 2.0])
    torch.testing.assert_close(physics.A(_x().flip(2, 3)), physics.A(_x()))
    assert float((physics.A(_x().flip(2)) - physics.A(_x())).abs().max()) > 0.01


def test_the_image_of_a_point_in_the_middle_is_the_point():
    x = torch.zeros(1, 1, 24, 20)
    x[0, 0, 12, 10] = 0.8
    physics = PhaseRetrieval([2.0])
    torch.testing.assert_close(physics.image(physics.A(x)), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [[-1.0], [8.1], [float("nan")], 9.0])
def test_refuses_oversampling_out_of_range(bad):
    with pytest.raises(InputError, match="oversampling is"):
        PhaseRetrieval(bad)


def test_refuses_several_oversamplings_and_sides_that_cannot_be():
    with pytest.raises(InputError, match="in one batch"):
        PhaseRetrieval([1.0, 2.0])
    with pytest.raises(InputError, match="a side of 35"):
        PhaseRetrieval([4.0]).image(torch.zeros(1, 3, 35, 35))
