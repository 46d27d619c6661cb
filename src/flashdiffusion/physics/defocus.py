"""Defocus: a point becomes a disc."""

import torch
from torch import Tensor

from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, PerImage, between, per_image
from flashdiffusion.physics.kernel_blur import convolve, kernel_reach, transposed
from flashdiffusion.physics.registry import Form, register_physics
from flashdiffusion.physics.tasks import Task

MAX_RADIUS = 15  # pixels; the kernel is as large for every radius, so that images of different ones can be joined


class Defocus(BatchedPhysics):
    """Blur by a disc, as a lens out of focus; borders are reflected, and the adjoint is exact.

    A pixel of the kernel has the share of the disc that lies in it, so that A changes smoothly with the radius. Up to a
    radius of 1/2 the disc lies in one pixel, and A is the identity.

    Args:
        radius: of the disc in pixels, from 0 to 15, whole or not; one for all images or one per image.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a radius that is negative, not finite or above 15, or an image of 15 pixels a side or less.
    """

    name = "defocus"

    def __init__(self, radius: PerImage, noise_std: NoiseStd = 0.05) -> None:
        expected = f"numbers from 0 to {MAX_RADIUS} (pixels)"
        radii = per_image("defocus radius", radius, expected, between(0, MAX_RADIUS), torch.float32)
        super().__init__({"radius": radii}, noise_std)

    @property
    def halo(self) -> int:
        return kernel_reach(disc_kernel(self.params["radius"]))

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        return convolve(x, self.derived("kernel", x, lambda: disc_kernel(self.params["radius"])))

    def A_adjoint(self, y: Tensor) -> Tensor:
        self.check_batch(y)
        return transposed(self.A, y)


def disc_kernel(radius: Tensor) -> Tensor:
    """Build kernels (B, 1, 31, 31), of sum 1, of discs of radius (B,) pixels; float32, on the device of the radius."""
    # Computed on the CPU, for mps has no float64.
    r = radius.detach().cpu().double().clamp(min=0.5).view(-1, 1, 1)
    edges = torch.arange(2 * MAX_RADIUS + 2, dtype=torch.float64) - MAX_RADIUS - 0.5
    corner = _area(edges[None, :, None], edges[None, None, :], r)
    kernel = corner.diff(dim=1).diff(dim=2).clamp(min=0)
    kernel = kernel / kernel.sum(dim=(1, 2), keepdim=True)
    return kernel[:, None].float().to(radius.device)


def _area(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Area of the disc about the origin over [0, x] × [0, y], negative where one of the two runs backwards."""
    width, height = x.abs().minimum(r), y.abs().minimum(r)
    # The box's upper side lies in the disc up to here; beyond, the arc bounds it.
    inside = (r.square() - height.square()).sqrt().minimum(width)
    return x.sign() * y.sign() * (inside * height + _under_arc(width, r) - _under_arc(inside, r))


def _under_arc(x: Tensor, r: Tensor) -> Tensor:
    """Integral of sqrt(r² - u²) over u from 0 to x."""
    return (x * (r.square() - x.square()).clamp(min=0).sqrt() + r.square() * (x / r).clamp(max=1).asin()) / 2


register_physics(
    Defocus,
    forms=[Form(Defocus)],
    tasks=[Task("defocus", "radius", 0.5, 4.0, Defocus, ordering=(0.5, 4.0))],
)
