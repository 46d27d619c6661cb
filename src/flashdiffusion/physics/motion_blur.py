"""Motion blur: the image is averaged along the camera's path."""

import math
from typing import Self

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, PerImage, between, per_image
from flashdiffusion.physics.kernel_blur import Blur, normalised
from flashdiffusion.physics.nonlinear_blur import RADIUS, check_kernel, draw_kernels, rasterise
from flashdiffusion.physics.registry import Form, register_physics
from flashdiffusion.physics.tasks import Task

_POINTS = 512  # of a line that is rendered into the kernel


class MotionBlur(Blur):
    """Convolution with the camera's path, a kernel per image; borders are reflected.

    Unlike `CameraShake` it averages pixel values as they are: a camera without a response curve.

    Args:
        kernel: share of the exposure at each offset, (B, 1, 31, 31), non-negative, sum 1.
        noise_std: σ_y on the [0, 1] scale.
        length, angle: of a straight path, to describe it, both or neither; the kernel alone is what blurs. NaN for any
            other path. See `from_line`.

    Raises:
        InputError: a kernel of another shape or sum, a length without an angle, or an image of 15 pixels a side or
            less.
    """

    name = "motion-blur"
    margin = True

    def __init__(
        self, kernel: Tensor, noise_std: NoiseStd = 0.05, length: PerImage = math.nan, angle: PerImage = math.nan
    ) -> None:
        check_kernel(kernel)
        line = {
            name: per_image(f"motion {name}", value, "numbers", lambda numbers: ~numbers.isinf(), torch.float32)
            for name, value in (("length", length), ("angle", angle))
        }
        if not torch.equal(line["length"].isnan(), line["angle"].isnan()):
            raise InputError(f"motion length is {length}, angle {angle}; expected both, or neither")
        BatchedPhysics.__init__(self, {"kernel": normalised(kernel, "kernel")} | line, noise_std)

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        unsaid = torch.full((1,), math.nan)  # in files that hold the kernel alone
        return super().from_params({"length": unsaid, "angle": unsaid} | params, noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        lines = zip(self.params["length"].tolist(), self.params["angle"].tolist(), strict=True)
        return [
            about | ({} if math.isnan(length) else {"length": round(length, 4), "angle": round(angle, 4)})
            for about, (length, angle) in zip(super().describe(), lines, strict=True)
        ]

    @classmethod
    def from_line(cls, length: PerImage, angle: PerImage = 0.0, noise_std: NoiseStd = 0.05) -> Self:
        """Blur along straight paths of `length` pixels at `angle` degrees, counter-clockwise from the horizontal.

        Raises:
            InputError: a length that is negative or above 30, an angle that is not finite, or another number of them.
        """
        expected = f"numbers from 0 to {2 * RADIUS} (pixels)"
        pixels = per_image("motion length", length, expected, between(0, 2 * RADIUS), torch.float32)
        degrees = per_image("motion angle", angle, "finite numbers (degrees)", torch.isfinite, torch.float32)
        if len({1, len(pixels), len(degrees)}) > 2:
            raise InputError(f"motion angle is {degrees.tolist()}; expected one number, or {len(pixels)}")
        pixels, degrees = torch.broadcast_tensors(pixels, degrees)
        radians = degrees.deg2rad()
        direction = torch.stack([-torch.sin(radians), torch.cos(radians)], dim=1)  # (B, row and column)
        along = torch.linspace(-0.5, 0.5, _POINTS, device=pixels.device)
        kernel = rasterise(RADIUS + (pixels[:, None] * direction)[:, :, None] * along)
        return cls(kernel, noise_std, pixels, degrees)

    @classmethod
    def from_std(cls, std: PerImage, generator: torch.Generator, noise_std: NoiseStd = 0.05) -> Self:
        """Draw a path per image of standard deviation `std` pixels per axis; raises InputError outside [0, 10]."""
        return cls(draw_kernels(std, generator), noise_std)


register_physics(
    MotionBlur,
    forms=[Form(MotionBlur.from_line), Form(MotionBlur.from_std, drawn="the camera's path")],
    tasks=[Task("motion-blur", "std", 0.5, 3.0, MotionBlur.from_std, ordering=(0.0, 3.0))],
)
