"""Gaussian blur."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, PerImage, between, per_image
from flashdiffusion.physics.registry import Form, register_physics
from flashdiffusion.physics.tasks import Task

# Beyond 4 std lie 6e-5 of a Gaussian; the paper's 61 taps (10 std at its widest) differ by less than 8-bit rounding.
TRUNCATE = 4.0
MAX_STD = 50.0


class GaussianBlur(BatchedPhysics):
    """Blur by a normalised Gaussian of std pixels, borders reflected; std = 0 is the identity.

    The kernel is the Gaussian sampled at whole pixels and cut at 4 std. A is separable, one 1-D filter along
    rows and one along columns, held as the exact matrix of "reflect, then filter", so that the adjoint is
    the transpose: no border is approximated.

    Args:
        std: standard deviations in pixels, one for all images or one per image.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a std that is negative, not finite or above 50, or an image smaller than the kernel's half.
    """

    name = "gaussian-blur"

    def __init__(self, std: PerImage, noise_std: NoiseStd = 0.05) -> None:
        expected = f"numbers from 0 to {MAX_STD:g} (pixels)"
        super().__init__({"std": per_image("blur std", std, expected, between(0, MAX_STD), torch.float32)}, noise_std)

    @property
    def halo(self) -> int:
        return _radius(self.params["std"])

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        rows, columns = self._matrix(x.shape[2], x), self._matrix(x.shape[3], x)
        return torch.einsum("bij,bcjk,blk->bcil", rows, x, columns)

    def A_adjoint(self, y: Tensor) -> Tensor:
        self.check_batch(y)
        rows, columns = self._matrix(y.shape[2], y), self._matrix(y.shape[3], y)
        return torch.einsum("bji,bcjk,bkl->bcil", rows, y, columns)

    def _matrix(self, size: int, like: Tensor) -> Tensor:
        """Matrices (B, size, size) that reflect-pad and filter along one axis."""
        return self.derived(size, like, lambda: filter_matrix(self.params["std"], size))


def filter_matrix(std: Tensor, size: int) -> Tensor:
    """Build matrices (B, size, size) of "reflect, then filter" along an axis, float32 on the device of std (B,).

    Raises InputError for an axis no longer than half the kernel.
    """
    device, std = std.device, std if std.device.type != "mps" else std.cpu()  # mps has no float64
    radius = _radius(std)
    if radius >= size:
        raise InputError(f"blur std {float(std.max()):g} needs images of more than {radius} pixels a side; got {size}")
    taps = torch.arange(-radius, radius + 1, dtype=torch.float64, device=std.device)
    variance = std.double().square().clamp(min=1e-12)[:, None]
    kernel = torch.exp(-taps.square() / (2 * variance))
    # Each row's own cut, so that an image's kernel does not depend on the widest blur of the batch.
    kernel = kernel * (taps.abs() <= (TRUNCATE * std.double()).ceil()[:, None])
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    identity = torch.eye(size, dtype=torch.float64, device=std.device)
    padded = F.pad(identity[None], (radius, radius), mode="reflect") if radius else identity[None]
    columns = F.conv1d(padded.transpose(0, 1), kernel[:, None])  # (size, B, size): filter of each unit vector
    return columns.permute(1, 2, 0).float().to(device)


def _radius(std: Tensor) -> int:
    """Pixels on each side of the widest kernel's centre."""
    return math.ceil(TRUNCATE * float(std.max()))


register_physics(
    GaussianBlur,
    forms=[Form(GaussianBlur)],
    tasks=[
        Task("gaussian-blur", "std", 0.0, 3.0, GaussianBlur, ordering=(0.0, 3.0)),
        Task("gaussian-blur-fixed", "std", 3.0, 3.0, GaussianBlur, ordering=(0.0, 3.0)),
    ],
)
