import pytest
import torch

from flashdiffusion.metrics import count_gflop, psnr, ssim


def _pair(count=3, size=64):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, size, size, generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    return x, x + torch.tensor([0.01, 0.1, 0.3]).view(-1, 1, 1, 1) * noise


def test_psnr_per_image():
    x, y = _pair()
    expected = -10 * (x - y).square().flatten(1).mean(1).log10()
    torch.testing.assert_close(psnr(y, x), expected)


def test_ssim_per_image():
    x, y = _pair()
    values = ssim(y, x)
    assert values.shape == (3,)
    assert bool((values.diff() < 0).all())
    torch.testing.assert_close(ssim(x, x), torch.ones(3))
    torch.testing.assert_close(ssim(y[1:2], x[1:2])[0], values[1])


def test_gflop_of_a_convolution_forward_and_backward():
    layer = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False).requires_grad_(False)
    x = torch.rand(1, 4, 10, 10, requires_grad=True)
    forward = 2 * 4 * 8 * 9 * 100 / 1e9
    assert count_gflop(lambda: layer(x)) == pytest.approx(forward)
    assert count_gflop(lambda: torch.autograd.grad(layer(x * 1).sum(), x)) == pytest.approx(2 * forward)
