"""Inpainting: pixels are lost."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedLinearPhysics, NoiseStd, expect_params, per_image


class RandomInpainting(BatchedLinearPhysics):
    """Random pixels are dropped, all channels together; dropped pixels read 0 (plus noise, which is not
    looked at).

    Args:
        mask: (B, 1, H, W), 1 where a pixel was kept and 0 where it was dropped.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a mask of another shape, or with values other than 0 and 1.
    """

    name = "random-inpainting"

    def __init__(self, mask: Tensor, noise_std: NoiseStd = 0.05) -> None:
        if mask.ndim != 4 or mask.shape[1] != 1:
            raise InputError(f"mask of shape {tuple(mask.shape)}; expected (B, 1, H, W)")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError("mask has values other than 0 (dropped) and 1 (kept)")
        super().__init__({"mask": mask.float()}, noise_std)

    @classmethod
    def from_ratio(
        cls,
        ratio: Tensor,
        size: tuple[int, int],
        generator: torch.Generator | None = None,
        noise_std: NoiseStd = 0.05,
    ) -> Self:
        """Draw a mask per image that drops each pixel with probability `ratio` (B,) in [0, 1].

        Raises:
            InputError: a ratio outside [0, 1].
        """
        ratio = per_image("ratio", ratio)
        if ratio.ndim != 1 or not bool(((ratio >= 0) & (ratio <= 1)).all()):
            raise InputError(f"ratio is {ratio.tolist()}; expected numbers in [0, 1], one per image")
        field = torch.rand(len(ratio), 1, *size, generator=generator, device=generator.device if generator else "cpu")
        return cls((field.to(ratio.device) >= ratio.view(-1, 1, 1, 1)).float(), noise_std)

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        expect_params(cls.name, params, "mask")
        return cls(params["mask"], noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        dropped = 1 - self.params["mask"].mean(dim=(1, 2, 3))
        return [{"physics": self.name, "ratio": round(r, 4)} for r in dropped.tolist()]

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        if x.shape[2:] != self.params["mask"].shape[2:]:
            raise InputError(
                f"images of {tuple(x.shape[2:])} pixels with a mask of {tuple(self.params['mask'].shape[2:])}; "
                "expected the same size"
            )
        return x * self.params["mask"].to(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)

    @property
    def loses(self) -> bool:
        return True

    def measured(self, y: Tensor) -> Tensor:
        return self.A(y)


class BoxInpainting(BatchedLinearPhysics):
    """The pixels of a box are lost, all channels together; they read 0 (plus noise, which is not
    looked at).

    Args:
        top: first row of the box, in pixels from the top, one whole number per image.
        left: first column, likewise.
        height: rows of the box, likewise; 0 loses nothing.
        width: columns of the box, likewise.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: negative or broken numbers, different numbers of them, or a box that does not fit the images.
    """

    name = "box-inpainting"

    def __init__(
        self,
        top: Sequence[float] | Tensor,
        left: Sequence[float] | Tensor,
        height: Sequence[float] | Tensor,
        width: Sequence[float] | Tensor,
        noise_std: NoiseStd = 0.05,
    ) -> None:
        params = {}
        for key, value in {"top": top, "left": left, "height": height, "width": width}.items():
            number = per_image(f"box {key}", value)
            if number.ndim != 1 or not bool(((number >= 0) & (number == number.round())).all()):
                raise InputError(f"box {key} is {number.tolist()}; expected whole numbers >= 0 (pixels), one per image")
            params[key] = number.to(torch.int64)
        if len({len(value) for value in params.values()}) > 1:
            raise InputError(f"box with {[len(v) for v in params.values()]} numbers; expected one of each per image")
        super().__init__(params, noise_std)

    @classmethod
    def from_side(
        cls, side: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd = 0.05
    ) -> Self:
        """Draw the place of a square box per image of `size` (H, W); `side` (B,) is a share of the shorter side.

        Raises:
            InputError: a side outside [0, 1].
        """
        side = per_image("box side", side)
        if side.ndim != 1 or not bool(((side >= 0) & (side <= 1)).all()):
            raise InputError(f"box side is {side.tolist()}; expected shares of the image in [0, 1], one per image")
        pixels = (side * min(size)).round()
        unit = torch.rand(2, len(side), generator=generator, device=generator.device).to(side.device)
        top, left = ((unit[i] * (size[i] - pixels + 1)).floor() for i in (0, 1))
        return cls(top, left, pixels, pixels, noise_std)

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        expect_params(cls.name, params, "top", "left", "height", "width")
        return cls(**params, noise_std=noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        rows = torch.stack(list(self.params.values()), dim=1).tolist()
        return [{"physics": self.name} | dict(zip(self.params, row, strict=True)) for row in rows]

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        inside = self._span("top", "height", x, 2)[:, :, None] & self._span("left", "width", x, 3)[:, None]
        return x.masked_fill(inside[:, None], 0)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)

    @property
    def loses(self) -> bool:
        return True

    def measured(self, y: Tensor) -> Tensor:
        return self.A(y)

    def _span(self, start: str, length: str, x: Tensor, dim: int) -> Tensor:
        """(B, size) along one axis, true inside the box."""
        first, count = self.params[start].to(x.device)[:, None], self.params[length].to(x.device)[:, None]
        if bool((first + count > x.shape[dim]).any()):
            raise InputError(
                f"box of {start} {self.params[start].tolist()} and {length} {self.params[length].tolist()} does not "
                f"fit images of {x.shape[2]} x {x.shape[3]} pixels (height x width)"
            )
        place = torch.arange(x.shape[dim], device=x.device)
        return (place >= first) & (place < first + count)
