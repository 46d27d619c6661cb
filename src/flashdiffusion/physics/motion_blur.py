"""Motion blur: the image is averaged along the camera's path."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedLinearPhysics, NoiseStd, expect_params, per_image
from flashdiffusion.physics.convolution import convolve
from flashdiffusion.physics.nonlinear_blur import RADIUS, check_kernel, draw_kernels, kernel_std, rasterise

_POINTS = 512  # of a line, when it is drawn into the kernel


class MotionBlur(BatchedLinearPhysics):
    """Convolution with the camera's path, a kernel per image; borders are reflected.

    Unlike `CameraShake` it averages pixel values as they are: a camera without a response curve.

    Args:
        kernel: share of the exposure at each offset, (B, 1, 31, 31), non-negative, sum 1.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a kernel that is none, or an image of 15 pixels a side or less.
    """

    name = "motion-blur"

    def __init__(self, kernel: Tensor, noise_std: NoiseStd = 0.05) -> None:
        check_kernel(kernel)
        super().__init__({"kernel": kernel}, noise_std)

    @classmethod
    def from_line(
        cls, length: Sequence[float] | Tensor, angle: Sequence[float] | Tensor, noise_std: NoiseStd = 0.05
    ) -> Self:
        """Straight paths of `length` (B,) pixels at `angle` (B,) degrees, counter-clockwise from the horizontal.

        Raises:
            InputError: a length that is negative or above 30, an angle that is not finite, or another number of them.
        """
        length = per_image("motion length", length, torch.float32)
        angle = per_image("motion angle", angle, torch.float32)
        if length.ndim != 1 or not bool(((length >= 0) & (length <= 2 * RADIUS)).all()):
            raise InputError(
                f"motion length is {length.tolist()}; expected numbers from 0 to {2 * RADIUS} (pixels), one per image"
            )
        if angle.shape != length.shape or not bool(angle.isfinite().all()):
            raise InputError(f"motion angle is {angle.tolist()}; expected a finite number (degrees) per length")
        direction = torch.stack([-torch.sin(angle.deg2rad()), torch.cos(angle.deg2rad())], dim=1)  # (B, row and column)
        along = torch.linspace(-0.5, 0.5, _POINTS, device=length.device)
        return cls(rasterise(RADIUS + (length[:, None] * direction)[:, :, None] * along), noise_std)

    @classmethod
    def from_std(cls, std: Tensor, generator: torch.Generator, noise_std: NoiseStd = 0.05) -> Self:
        """Draw a path per image (a walk with inertia) whose standard deviation along an axis is `std` pixels (B,).

        Raises:
            InputError: a std that is negative or above 10.
        """
        return cls(draw_kernels(std, generator), noise_std)

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        expect_params(cls.name, params, "kernel")
        return cls(params["kernel"], noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        return [{"physics": self.name, "std": round(s, 4)} for s in kernel_std(self.params["kernel"]).tolist()]

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        return convolve(x, self.params["kernel"])

    def A_adjoint(self, y: Tensor) -> Tensor:
        self.check_batch(y)
        # A is linear: its vector-Jacobian product, at any point, is the adjoint, borders included.
        with torch.enable_grad():
            x = torch.zeros_like(y, requires_grad=True)
            (adjoint,) = torch.autograd.grad(self.A(x), x, y, create_graph=y.requires_grad)
        return adjoint
