"""Convolution with a kernel per image, borders reflected, by FFT."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve x (B, C, H, W) with kernels (B or 1, 1, h, w) of odd sides; differentiable, same size.

    Raises:
        InputError: an image smaller than half the kernel.
    """
    down, across = kernel.shape[-2] // 2, kernel.shape[-1] // 2
    height, width = x.shape[2:]
    if height <= down or width <= across:
        need = f"more than {down}" + (f" and {across}" if across != down else "")
        raise InputError(f"images of {height} x {width} pixels; this kernel needs {need} a side")
    padded = F.pad(x, (across, across, down, down), mode="reflect")
    size = padded.shape[2:]
    # The kernel's centre goes to the origin; what wraps around stays within the padding, which is cut off.
    centred = F.pad(kernel.to(x), (0, size[1] - kernel.shape[-1], 0, size[0] - kernel.shape[-2]))
    spectrum = torch.fft.rfft2(centred.roll((-down, -across), dims=(-2, -1)))
    blurred = torch.fft.irfft2(torch.fft.rfft2(padded) * spectrum, s=size)
    return blurred[..., down : down + height, across : across + width]


def kernel_std(kernel: Tensor) -> Tensor:
    """Compute the standard deviation along an axis, in pixels, of kernels (B, 1, h, w) -> (B,)."""
    variance = torch.zeros(len(kernel), dtype=kernel.dtype, device=kernel.device)
    for axis in (2, 3):
        offset = torch.arange(kernel.shape[axis], dtype=kernel.dtype, device=kernel.device) - kernel.shape[axis] // 2
        p = kernel.sum(dim=(1, 5 - axis))
        variance += ((p * offset.square()).sum(1) - (p * offset).sum(1).square()) / 2
    return variance.clamp(min=0).sqrt()
