"""Convolution with a kernel per image, borders reflected, by FFT."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Each image of x (B, C, H, W) with its own kernel (B, 1, k, k), k odd; differentiable, same size.

    Raises:
        InputError: an image smaller than half the kernel.
    """
    radius = kernel.shape[-1] // 2
    height, width = x.shape[2:]
    if min(height, width) <= radius:
        raise InputError(f"images of {height} x {width} pixels; this kernel needs more than {radius} a side")
    padded = F.pad(x, (radius,) * 4, mode="reflect")
    size = padded.shape[2:]
    # The kernel's centre goes to the origin; what wraps around stays within the padding, which is cut off.
    centred = F.pad(kernel.to(x), (0, size[1] - kernel.shape[-1], 0, size[0] - kernel.shape[-2]))
    spectrum = torch.fft.rfft2(centred.roll((-radius, -radius), dims=(-2, -1)))
    blurred = torch.fft.irfft2(torch.fft.rfft2(padded) * spectrum, s=size)
    return blurred[..., radius : radius + height, radius : radius + width]
