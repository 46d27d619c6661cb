"""Phase retrieval: only the magnitudes of the Fourier transform are measured."""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, expect_params, per_image

MAX_OVERSAMPLING = 8.0


class PhaseRetrieval(BatchedPhysics):
    """y = |FFT(pad(x))|, the transform normalised to keep the norm, each channel on its own.

    As in "Diffusion Posterior Sampling" (Chung et al., ICLR 2023): `oversampling` k pads each side by k/8 of the
    image, so that 2 (the default there) measures 1.5 times as many frequencies along each axis. Here x is the light
    itself, on the [0, 1] scale. Measurements (B, C, 1.5 H, 1.5 W) are not images and are not bounded by 1; x, x
    turned by 180 degrees and shifted copies of it measure alike.

    Args:
        oversampling: numbers from 0 to 8, one per image; equal for all of them, for measurements are of one size.
        noise_std: σ_y on the scale of y.

    Raises:
        InputError: an oversampling out of range, or several.
    """

    name = "phase-retrieval"
    scale_of_images = False

    def __init__(self, oversampling: Sequence[float] | Tensor, noise_std: NoiseStd = 0.05) -> None:
        oversampling = per_image("oversampling", oversampling, torch.float32)
        inside = (oversampling >= 0) & (oversampling <= MAX_OVERSAMPLING)
        if oversampling.ndim != 1 or not bool(inside.all()):
            raise InputError(
                f"oversampling is {oversampling.tolist()}; expected numbers from 0 to {MAX_OVERSAMPLING:g}, one per "
                "image"
            )
        if len(oversampling.unique()) > 1:
            raise InputError(f"oversamplings {oversampling.unique().tolist()} in one batch; expected one number")
        super().__init__({"oversampling": oversampling}, noise_std)
        self._oversampling = float(oversampling[0])  # a number, so that A does not wait for the device

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        expect_params(cls.name, params, "oversampling")
        return cls(params["oversampling"], noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        return [{"physics": self.name, "oversampling": round(k, 4)} for k in self.params["oversampling"].tolist()]

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        rows, columns = self._padding(x.shape[2]), self._padding(x.shape[3])
        return torch.fft.fft2(F.pad(x, (columns, columns, rows, rows)), norm="ortho").abs()

    @property
    def gives_images(self) -> bool:
        return False

    def image(self, y: Tensor) -> Tensor:
        """The inverse transform with all phases 0, cut to the size of x and clipped to [0, 1]: finite, hardly like x.

        Raises:
            InputError: a y that no image measures at this oversampling.
        """
        self.check_batch(y)
        height, width = self._size_before(y.shape[2]), self._size_before(y.shape[3])
        centred = torch.fft.fftshift(torch.fft.ifft2(y, norm="ortho").real, dim=(-2, -1))
        top, left = self._padding(height), self._padding(width)
        return centred[..., top : top + height, left : left + width].clamp(0, 1)

    def _padding(self, size: int) -> int:
        """Zeros on each side of an axis of `size` pixels."""
        return int(self._oversampling / 8 * size)

    def _size_before(self, padded: int) -> int:
        """The size of an axis that is padded to `padded`."""
        guess = round(padded / (1 + self._oversampling / 4))
        for size in (guess, guess + 1, guess - 1, guess + 2, guess - 2):
            if size + 2 * self._padding(size) == padded:
                return size
        raise InputError(f"{self.name}: measurements with a side of {padded}; no image has as many frequencies")
