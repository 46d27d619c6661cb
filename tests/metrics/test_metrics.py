import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flashdiffusion.errors import CheckpointError
from flashdiffusion.metrics import LPIPS, count_gflop, psnr, ssim
from lpips_weights import lpips_weights


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


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_lpips_recognises_its_network_and_is_a_distance(net, tmp_path):
    save_file(lpips_weights(net), tmp_path / "lpips.safetensors")
    lpips = LPIPS.from_file(tmp_path / "lpips.safetensors")
    assert lpips.net == net
    x, y = _pair()
    values = lpips(y, x)
    torch.testing.assert_close(lpips(x, x), torch.zeros(3))
    torch.testing.assert_close(values, lpips(x, y))
    torch.testing.assert_close(lpips(y[2:], x[2:]), values[2:])
    assert bool((values.diff() > 0).all()), "more noise is further away"
    y = y.requires_grad_()
    lpips(y, x).sum().backward()
    assert y.grad is not None and bool(y.grad.isfinite().all())


def test_lpips_refuses_other_files(tmp_path):
    with pytest.raises(CheckpointError, match="no LPIPS weights"):
        LPIPS.from_file(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        LPIPS.from_file(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not LPIPS weights"):
        LPIPS.from_file(tmp_path / "other.safetensors")


@pytest.mark.skipif("LPIPS_ALEX" not in os.environ, reason="LPIPS_ALEX: path of the published AlexNet weights")
def test_published_lpips_weights_load():
    lpips = LPIPS.from_file(Path(os.environ["LPIPS_ALEX"]))
    x, y = _pair()
    assert lpips.net == "alex"
    assert bool((lpips(y, x).diff() > 0).all())


def test_gflop_of_a_convolution_forward_and_backward():
    layer = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False).requires_grad_(False)
    x = torch.rand(1, 4, 10, 10, requires_grad=True)
    forward = 2 * 4 * 8 * 9 * 100 / 1e9
    assert count_gflop(lambda: layer(x)) == pytest.approx(forward)
    assert count_gflop(lambda: torch.autograd.grad(layer(x * 1).sum(), x)) == pytest.approx(2 * forward)
