"""Gaussian blur."""

import math
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedLinearPhysics, NoiseStd, expect_params, per_image

# Beyond 4 std lie 6e-5 of a Gaussian; the paper's 61 taps (10 std at its widest) differ by less than 8-bit rounding.
TRUNCATE = 4.0
MAX_STD = 50.0


class GaussianBlur(BatchedLinearPhysics):
    """Blur by a normalised Gaussian of std pixels, borders reflected; std = 0 is the identity.

    The kernel is the Gaussian sampled at whole pixels and cut at 4 std. A is separable, one 1-D filter along
    rows and one along columns, held as the exact matrix of "reflect, then filter", so that the adjoint is
    the transpose: no border is approximated.

    Args:
        std: standard deviations in pixels, one per image.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a std that is negative, not finite or above 50, or an image smaller than the kernel's half.
    """

    name = "gaussian-blur"

    def __init__(self, std: Sequence[float] | Tensor, noise_std: NoiseStd = 0.05) -> None:
        std = per_image("blur std", std, torch.float32)
        if std.ndim != 1 or not bool(((std >= 0) & (std <= MAX_STD)).all()):
            raise InputError(
                f"blur std is {std.tolist()}; expected numbers from 0 to {MAX_STD:g} (pixels), one per image"
            )
        super().__init__({"std": std}, noise_std)
        self._matrices: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        expect_params(cls.name, params, "std")
        return cls(params["std"], noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        return [{"physics": self.name, "std": round(s, 4)} for s in self.params["std"].tolist()]

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        rows, columns = self._matrix(x.shape[2], x), self._matrix(x.shape[3], x)
        return torch.einsum("bij,bcjk,blk->bcil", rows, x, columns)

    def A_adjoint(self, y: Tensor) -> Tensor:
        self.check_batch(y)
        rows, columns = self._matrix(y.shape[2], y), self._matrix(y.shape[3], y)
        return torch.einsum("bji,bcjk,bkl->bcil", rows, y, columns)

    def take(self, rows: Tensor) -> "GaussianBlur":
        std = self.params["std"]
        taken = GaussianBlur(std[rows.to(std.device)], self.noise_std[rows.cpu()])
        taken._matrices = {key: matrix[rows.to(matrix.device)] for key, matrix in self._matrices.items()}
        return taken

    def _matrix(self, size: int, like: Tensor) -> Tensor:
        """(B, size, size): reflect-pad and filter along one axis."""
        key = (size, like.device, like.dtype)
        if key not in self._matrices:
            double = like.device if like.device.type != "mps" else torch.device("cpu")  # mps has no float64
            matrix = _filter_matrix(self.params["std"].to(double), size)
            self._matrices[key] = matrix.to(device=like.device, dtype=like.dtype)
        return self._matrices[key]


def _filter_matrix(std: Tensor, size: int) -> Tensor:
    radius = math.ceil(TRUNCATE * float(std.max()))
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
    return columns.permute(1, 2, 0).float()
