"""Super-resolution: the measurement is a smaller image."""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedLinearPhysics, NoiseStd, expect_params, per_image

MAX_FACTOR = 16


class SuperResolution(BatchedLinearPhysics):
    """Bicubic downsampling with antialiasing, as Pillow's and PyTorch's `antialias=True` do it.

    The cubic (a = -1/2) is stretched by the factor and cut and renormalised at the borders. It is separable, and
    held as the exact matrix of each axis, so that the adjoint is its transpose.

    Args:
        factor: whole numbers from 1 to 16, one per image; equal for all of them, for measurements are of one size.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: another factor, several, or an image whose sides are no multiples of it.
    """

    name = "super-resolution"

    def __init__(self, factor: Sequence[float] | Tensor, noise_std: NoiseStd = 0.05) -> None:
        factor = per_image("super-resolution factor", factor)
        whole = (factor >= 1) & (factor <= MAX_FACTOR) & (factor == factor.round())
        if factor.ndim != 1 or not bool(whole.all()):
            raise InputError(
                f"super-resolution factor is {factor.tolist()}; expected whole numbers from 1 to {MAX_FACTOR}, one per "
                "image"
            )
        if len(factor.unique()) > 1:
            raise InputError(f"super-resolution factors {factor.unique().tolist()} in one batch; expected one factor")
        super().__init__({"factor": factor.to(torch.int64)}, noise_std)
        self.factor = int(factor[0])  # of every image; a number, so that A does not wait for the device
        self._matrices: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        expect_params(cls.name, params, "factor")
        return cls(params["factor"], noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        return [{"physics": self.name, "factor": f} for f in self.params["factor"].tolist()]

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        height, width = x.shape[2:]
        if height % self.factor or width % self.factor:
            raise InputError(
                f"images of {height} x {width} pixels cannot be made smaller {self.factor} times; expected sides "
                f"that are multiples of {self.factor}"
            )
        return self._matrix(height, x) @ x @ self._matrix(width, x).mT

    def A_adjoint(self, y: Tensor) -> Tensor:
        self.check_batch(y)
        height, width = self.factor * y.shape[2], self.factor * y.shape[3]
        return self._matrix(height, y).mT @ y @ self._matrix(width, y)

    def image(self, y: Tensor) -> Tensor:
        """y enlarged (bicubic) to the size of x."""
        self.check_batch(y)
        return F.interpolate(y, scale_factor=self.factor, mode="bicubic")

    def _matrix(self, size: int, like: Tensor) -> Tensor:
        """(size / factor, size): downsampling along one axis."""
        key = (size, like.device, like.dtype)
        if key not in self._matrices:
            identity = torch.eye(size, dtype=torch.float64)[None, None]
            smaller = (size // self.factor, size)
            matrix = F.interpolate(identity, size=smaller, mode="bicubic", antialias=True)[0, 0]
            self._matrices[key] = matrix.to(device=like.device, dtype=like.dtype)
        return self._matrices[key]
