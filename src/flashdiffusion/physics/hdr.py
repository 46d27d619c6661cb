"""High dynamic range: an exposure that is too long for the sensor."""

import math

from torch import Tensor

from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, PerImage, between, per_image
from flashdiffusion.physics.registry import Form, register_physics
from flashdiffusion.physics.tasks import Task


class HDR(BatchedPhysics):
    """Contrast is stretched about mid-grey and clipped: highlights and shadows are lost.

    The convention of "ReSample" (Song et al., ICLR 2024), y = clip(scale * x, -1, 1) with images in [-1, 1] and
    scale 2, written on the [0, 1] scale: y = clip(scale * (x - 1/2) + 1/2, 0, 1).

    Args:
        scale: numbers >= 1, one for all images or one per image; 1 is the identity for x in [0, 1].
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a scale below 1 or not finite.
    """

    name = "hdr"

    def __init__(self, scale: PerImage = 2.0, noise_std: NoiseStd = 0.05) -> None:
        valid = between(1, math.inf)
        super().__init__({"scale": per_image("hdr scale", scale, "finite numbers >= 1", valid).float()}, noise_std)

    @property
    def halo(self) -> int:
        return 0

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        return (self.params["scale"].to(x).view(-1, 1, 1, 1) * (x - 0.5) + 0.5).clamp(0, 1)


register_physics(HDR, forms=[Form(HDR)], tasks=[Task("hdr", "scale", 1.0, 3.0, HDR, ordering=(1.0, 4.0))])
