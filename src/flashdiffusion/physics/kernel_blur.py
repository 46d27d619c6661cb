"""Convolution with a kernel per image, and blur with the user's own kernels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.data.arrays import ARRAYS, read_array
from flashdiffusion.data.images import read_image, to_tensor
from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd
from flashdiffusion.physics.registry import Form, register_physics

_ROUNDING = 1e-6  # of a kernel's sum, which is not divided out again when a kernel is read back


class Blur(BatchedPhysics):
    """Convolution with given kernels, divided by their sums; borders are reflected, and the adjoint is exact.

    Args:
        kernel: a tensor or array, (h, w) for all images or (B, h, w), one per image; or the file of one, an image or
            array. Its centre is at (h // 2, w // 2).
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a kernel of another shape, with values that are not finite or a sum that is not positive, or an
            image that is not larger than half of it.
    """

    name = "blur"

    def __init__(self, kernel: Tensor | np.ndarray | str | Path, noise_std: NoiseStd = 0.05) -> None:
        if isinstance(kernel, (str, Path)):
            array = Path(kernel).suffix.lower() in ARRAYS
            kernel = read_array(kernel) if array else to_tensor(read_image(kernel)).mean(dim=0)
        values = torch.as_tensor(kernel).float()
        values = values[None] if values.ndim == 2 else values
        values = values[:, None] if values.ndim == 3 else values
        if values.ndim != 4 or values.shape[1] != 1 or values.numel() == 0:
            raise InputError(f"kernel of shape {tuple(kernel.shape)}; expected (h, w) for all images, or (B, h, w)")
        total = values.double().sum(dim=(1, 2, 3), keepdim=True)
        if not bool((values.isfinite().all() & (total > 0)).all()):
            raise InputError(f"kernels with sums {total.flatten().tolist()}; expected finite values and positive sums")
        values = torch.where((total - 1).abs() > _ROUNDING, values / total, values).float()
        # Odd sides have a pixel at their centre.
        height, width = values.shape[2:]
        super().__init__({"kernel": F.pad(values, (0, 1 - width % 2, 0, 1 - height % 2))}, noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        return [{"physics": self.name, "std": round(s, 4)} for s in kernel_std(self.params["kernel"]).tolist()]

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        return convolve(x, self.params["kernel"])

    def A_adjoint(self, y: Tensor) -> Tensor:
        self.check_batch(y)
        return transposed(self.A, y)


def transposed(A: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """Give Aᵀy (B, C, H, W) of a linear A between images of one size, borders included; differentiable in y."""
    # The vector-Jacobian product of a linear function, at any point, is its adjoint.
    with torch.inference_mode(False), torch.enable_grad():
        y = y.clone() if y.is_inference() else y
        x = torch.zeros_like(y, requires_grad=True)
        (adjoint,) = torch.autograd.grad(A(x), x, y, create_graph=y.requires_grad)
    return adjoint


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


def _from_file(kernel: Path, noise_std: NoiseStd) -> Blur:
    return Blur(kernel, noise_std)


register_physics(Blur, forms=[Form(_from_file)])
