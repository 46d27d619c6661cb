"""Convolution with a kernel per image, and blur with the user's own kernels."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.data.arrays import ARRAYS, read_array
from flashdiffusion.data.images import read_image, to_tensor
from flashdiffusion.errors import InputError, blamed_on, read_as, sized
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd
from flashdiffusion.physics.registry import Form, register_physics

_ROUNDING = 1e-6  # of a kernel's sum, which is not divided out again when a kernel is read back


class Blur(BatchedPhysics):
    """Convolution with given kernels, each divided by its sum; borders are reflected, and the adjoint is exact.

    Args:
        kernel: (h, w) for all images and channels; (3, h, w), one per channel; (B, 1, h, w), one per image; or
            (B, 3, h, w), one per image and channel: a tensor or array, or the file of an array. The file of an image is
            one kernel for all channels, its brightness. Sides are odd or even: the centre is at (h // 2, w // 2), of an
            even side the later of the two middle pixels. Values are of any scale.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a kernel of another shape or none, with values that are not finite or a sum that is not above 0, or
            an image that is smaller than the kernel or has other channels.
    """

    name = "blur"
    margin: ClassVar[bool] = False  # whether kernels are wider than their blur, so that images may be smaller

    def __init__(self, kernel: Tensor | np.ndarray | str | Path, noise_std: NoiseStd = 0.05) -> None:
        what = f"kernel {kernel}" if isinstance(kernel, (str, Path)) else "kernel"
        super().__init__({"kernel": normalised(_read(kernel, what), what)}, noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        spread = kernel_std(self.params["kernel"].mean(dim=1, keepdim=True))
        return [{"physics": self.name, "std": round(s, 4)} for s in spread.tolist()]

    @property
    def halo(self) -> int:
        kernel = self.params["kernel"]
        # Images are to be as large as a kernel without a margin, whatever zeros it has.
        return kernel_reach(kernel) if self.margin else max(kernel.shape[-2:]) // 2

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        kernel = self.params["kernel"]
        (channels, height, width), own = kernel.shape[1:], x.shape[2:]
        if channels not in {1, x.shape[1]}:
            raise InputError(f"{channels} kernels for {x.shape[1]} channels; expected one per channel, or one for all")
        if not self.margin and (height > own[0] or width > own[1]):
            raise InputError(
                f"kernel of {sized(height, width)} for images of {sized(*own)}; expected one that is not larger "
                "than the image: cut off its margin, or take larger images"
            )
        return convolve(x, kernel)

    def A_adjoint(self, y: Tensor) -> Tensor:
        self.check_batch(y)
        return transposed(self.A, y)


def _read(kernel: Tensor | np.ndarray | str | Path, what: str) -> Tensor:
    """Read kernels (B or 1, C, h, w) of 1 or 3 channels; raises InputError for another shape."""
    if isinstance(kernel, (str, Path)):
        array = Path(kernel).suffix.lower() in ARRAYS
        with read_as("kernel"):
            kernel = read_array(kernel) if array else to_tensor(read_image(kernel)).mean(dim=0)
    with blamed_on(what, InputError):
        kernel = np.ascontiguousarray(kernel) if isinstance(kernel, np.ndarray) else kernel  # a flipped one is a view
        values = torch.as_tensor(kernel).float()
    shape = tuple(values.shape)
    if 0 in shape:
        raise InputError(f"{what} of shape {shape} is empty; expected at least one value, such as [[1.0]]")
    if values.ndim not in {2, 3, 4} or (values.ndim > 2 and shape[-3] not in {1, 3}):
        of_images = f"; of one per image, pass kernel[:, None], {(shape[0], 1, *shape[1:])}" if len(shape) == 3 else ""
        raise InputError(
            f"{what} of shape {shape}; expected (h, w) for all images, (3, h, w) with one per channel, or (B, 1, h, w) "
            f"or (B, 3, h, w) with one per image{of_images}"
        )
    return values.view(-1, shape[-3] if len(shape) > 2 else 1, *shape[-2:])


def normalised(values: Tensor, what: str) -> Tensor:
    """Divide kernels (B, C, h, w) by their sums; raises InputError for those that have none."""
    if not bool((finite := values.isfinite()).all()):
        place = (~finite).nonzero()[0].tolist()
        raise InputError(
            f"{what} is {float(values[tuple(place)])} at {place[2:]}; expected finite values: replace it, as by 0"
        )
    total = values.double().sum(dim=(2, 3), keepdim=True)
    if not bool((total > 0).all()):
        low = float(total.min())
        raise InputError(
            f"{what} has the sum {low:g}; expected one above 0, by which it is divided: a filter that is no blur, such "
            "as one of edges, goes as Operator(function)"
        )
    return torch.where((total - 1).abs() > _ROUNDING, values / total, values).float()


def transposed(A: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """Give Aᵀy (B, C, H, W) of a linear A between images of one size, borders included; differentiable in y."""
    # The vector-Jacobian product of a linear function, at any point, is its adjoint.
    with torch.inference_mode(False), torch.enable_grad():
        y = y.clone() if y.is_inference() else y
        x = torch.zeros_like(y, requires_grad=True)
        (adjoint,) = torch.autograd.grad(A(x), x, y, create_graph=y.requires_grad)
    return adjoint


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve x (B, C, H, W) with kernels (B or 1, C or 1, h, w) about (h // 2, w // 2); differentiable, same size.

    Raises:
        InputError: an image smaller than half the kernel.
    """
    down, across = kernel.shape[-2] // 2, kernel.shape[-1] // 2
    height, width = x.shape[2:]
    if height <= down or width <= across:
        need = f"more than {down}" + (f" and {across}" if across != down else "")
        raise InputError(f"images of {sized(height, width)}; this kernel needs {need} a side")
    padded = F.pad(x, (across, across, down, down), mode="reflect")
    size = padded.shape[2:]
    # The kernel's centre goes to the origin; what wraps around stays within the padding, which is cut off.
    centred = F.pad(kernel.to(x), (0, size[1] - kernel.shape[-1], 0, size[0] - kernel.shape[-2]))
    spectrum = torch.fft.rfft2(centred.roll((-down, -across), dims=(-2, -1)))
    blurred = torch.fft.irfft2(torch.fft.rfft2(padded) * spectrum, s=size)
    return blurred[..., down : down + height, across : across + width]


def kernel_reach(kernel: Tensor) -> int:
    """Find how many pixels from the centre of kernels (B, C, h, w) the farthest value lies that is not 0."""
    reach = 0
    for axis, side in ((-1, kernel.shape[-1]), (-2, kernel.shape[-2])):
        places = (kernel != 0).movedim(axis, 0).flatten(1).any(dim=1).nonzero()[:, 0]
        reach = max(reach, int((places - side // 2).abs().max()))
    return reach


def kernel_std(kernel: Tensor) -> Tensor:
    """Compute the standard deviation along an axis, in pixels, of kernels (B, 1, h, w) -> (B,)."""
    variance = torch.zeros(len(kernel), dtype=kernel.dtype, device=kernel.device)
    for axis in (2, 3):
        offset = torch.arange(kernel.shape[axis], dtype=kernel.dtype, device=kernel.device) - kernel.shape[axis] // 2
        p = kernel.sum(dim=(1, 5 - axis))
        variance += ((p * offset.square()).sum(1) - (p * offset).sum(1).square()) / 2
    return variance.clamp(min=0).sqrt()


def _from_file(kernel: Path, noise_std: NoiseStd) -> Blur:
    blur = Blur(kernel, noise_std)
    if len(blur) > 1:
        raise InputError(
            f"kernel {kernel} holds {len(blur)} kernels, one per image; expected that of one: give a folder with a "
            "file of each image's name"
        )
    return blur


register_physics(Blur, forms=[Form(_from_file)])
