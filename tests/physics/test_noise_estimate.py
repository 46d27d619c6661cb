import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import BoxInpainting, GaussianBlur, RandomInpainting, estimate_noise_std


def _noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _smooth(count=3, side=128):
    x = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    return GaussianBlur(3.0).A(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finds_white_noise_of_each_image(dtype):
    std = torch.tensor([0.0, 0.02, 0.2], dtype=dtype)
    y = (_smooth() + std.view(-1, 1, 1, 1) * _noise(3, 3, 128, 128)).to(dtype)
    found = estimate_noise_std(y)
    assert found.dtype == dtype
    torch.testing.assert_close(found, std, rtol=0.03, atol=1e-3)
    for n in range(3):
        torch.testing.assert_close(estimate_noise_std(y[[n]]), found[[n]])


def test_a_ramp_and_few_edges_are_no_noise():
    y = (torch.arange(64.0).view(1, 1, -1, 1) + 2 * torch.arange(64.0)) / 200
    y = y.expand(1, 3, -1, -1).clone()
    y[..., 20:, 30:] += 0.5
    assert float(estimate_noise_std(y)) < 1e-5


def test_what_was_not_measured_is_left_out():
    physics = BoxInpainting([0, 20], [0, 30], 50, 60, noise_std=0.1)
    y = physics(_smooth(2), torch.Generator().manual_seed(0))
    y[0, :, :50, :60] = torch.nan  # no data
    y[1, :, 20:70, 30:90] = 7.0 * _noise(3, 50, 60)
    measured = physics.measured(torch.ones_like(y))
    torch.testing.assert_close(estimate_noise_std(y, measured), torch.tensor([0.1, 0.1]), rtol=0.03, atol=0)


def test_refuses_what_says_nothing_of_noise():
    with pytest.raises(InputError, match=r"shape \(2, 40\); expected images \(B, C, H, W\) of floats: give noise_std"):
        estimate_noise_std(torch.zeros(2, 40))
    with pytest.raises(InputError, match=r"torch.uint8 measurements"):
        estimate_noise_std(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"3 x 90 pixels \(height x width\) with 0 places"):
        estimate_noise_std(torch.zeros(1, 3, 3, 90))
    few = RandomInpainting.from_ratio(0.8, (64, 64), torch.Generator().manual_seed(0))
    y = few(_smooth(1, 64), torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="places where all of 4 x 4 pixels were measured; expected at least 100"):
        estimate_noise_std(y, few.measured(torch.ones_like(y)))
