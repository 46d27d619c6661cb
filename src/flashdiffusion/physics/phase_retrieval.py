"""Phase retrieval: only the magnitudes of the Fourier transform are measured."""

from collections.abc import Hashable

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, PerImage, between, per_image, shared
from flashdiffusion.physics.registry import Form, register_physics
from flashdiffusion.physics.tasks import Task

MAX_OVERSAMPLING = 8.0


class PhaseRetrieval(BatchedPhysics):
    """y = |FFT(pad(x))|, the transform normalised to keep the norm, each channel on its own.

    As in "Diffusion Posterior Sampling" (Chung et al., ICLR 2023): `oversampling` k pads each side by k/8 of the
    image, so that 2 (the default there) measures 1.5 times as many frequencies along each axis. Here x is the light
    itself, on the [0, 1] scale. Measurements (B, C, 1.5 H, 1.5 W) are not images and are not bounded by 1; x, x
    turned by 180 degrees and shifted copies of it measure alike.

    Args:
        oversampling: a number from 0 to 8, the same for all images, for measurements are of one size.
        noise_std: σ_y on the scale of y.

    Raises:
        InputError: an oversampling out of range, or several.
    """

    name = "phase-retrieval"
    scale_of_images = False
    gives_images = False

    def __init__(self, oversampling: PerImage = 2.0, noise_std: NoiseStd = 0.05) -> None:
        expected = f"numbers from 0 to {MAX_OVERSAMPLING:g}"
        numbers = per_image("oversampling", oversampling, expected, between(0, MAX_OVERSAMPLING)).float()
        self._oversampling = shared("oversampling", numbers)  # a number, so that A does not wait for the device
        super().__init__({"oversampling": numbers}, noise_std)

    @property
    def kind(self) -> Hashable:
        return super().kind, self._oversampling

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        rows, columns = self._padding(x.shape[2]), self._padding(x.shape[3])
        return torch.fft.fft2(F.pad(x, (columns, columns, rows, rows)), norm="ortho").abs()

    def image(self, y: Tensor) -> Tensor:
        """Invert with all phases 0, cut to the size of x and clip to [0, 1]: finite, but hardly like x.

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
        """Find the size of an axis that is padded to `padded`."""
        guess = round(padded / (1 + self._oversampling / 4))
        for size in (guess, guess + 1, guess - 1, guess + 2, guess - 2):
            if size + 2 * self._padding(size) == padded:
                return size
        raise InputError(f"{self.name}: measurements with a side of {padded}; no image has as many frequencies")


register_physics(
    PhaseRetrieval,
    forms=[Form(PhaseRetrieval)],
    tasks=[Task("phase-retrieval", "oversampling", 2.0, 2.0, PhaseRetrieval, ordering=(2.0, 2.0))],
)
