"""High dynamic range: an exposure that is too long for the sensor."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, expect_params, per_image


class HDR(BatchedPhysics):
    """Contrast is stretched about mid-grey and clipped: highlights and shadows are lost.

    The convention of "ReSample" (Song et al., ICLR 2024), y = clip(scale * x, -1, 1) with images in [-1, 1] and
    scale 2, written on the [0, 1] scale: y = clip(scale * (x - 1/2) + 1/2, 0, 1).

    Args:
        scale: numbers >= 1, one per image; 1 is the identity for x in [0, 1].
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a scale below 1 or not finite.
    """

    name = "hdr"

    def __init__(self, scale: Sequence[float] | Tensor, noise_std: NoiseStd = 0.05) -> None:
        scale = per_image("hdr scale", scale, torch.float32)
        if scale.ndim != 1 or not bool((scale.isfinite() & (scale >= 1)).all()):
            raise InputError(f"hdr scale is {scale.tolist()}; expected finite numbers >= 1, one per image")
        super().__init__({"scale": scale}, noise_std)

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        expect_params(cls.name, params, "scale")
        return cls(params["scale"], noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        return [{"physics": self.name, "scale": round(s, 4)} for s in self.params["scale"].tolist()]

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        return (self.params["scale"].to(x).view(-1, 1, 1, 1) * (x - 0.5) + 0.5).clamp(0, 1)
