"""Inpainting: pixels are lost."""

from abc import abstractmethod
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from flashdiffusion.errors import InputError, sized
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, PerImage, Size, between, per_image, whole
from flashdiffusion.physics.masks import ALPHA, distance_to_scribble, fit_mask, read_mask
from flashdiffusion.physics.noise import numbers
from flashdiffusion.physics.registry import Form, register_physics
from flashdiffusion.physics.tasks import Task
from flashdiffusion.physics.windows import Window


class _Inpainting(BatchedPhysics):
    """Pixels are lost, all channels together; they read 0 (plus noise, which is ignored)."""

    loses = True

    @abstractmethod
    def lost(self, x: Tensor) -> Tensor:
        """Tell which pixels of x (B, C, H, W) are lost, bool (B or 1, 1, H, W)."""

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        return x.masked_fill(self.lost(x), 0)

    A_adjoint = A

    @property
    def halo(self) -> int:
        return 0

    def measured(self, y: Tensor) -> Tensor:
        return self.A(y)


class RandomInpainting(_Inpainting):
    """Random pixels are dropped, all channels together; they read 0 (plus noise, which is ignored).

    Args:
        mask: 1 where a pixel was kept and 0 where it was dropped, a tensor or array: (B, 1, H, W), (B, H, W), or (H, W)
            for all images. `RandomInpainting.from_file(path)` reads an image file.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a mask of another shape, or with values other than 0 and 1.
    """

    name = "random-inpainting"

    def __init__(self, mask: Tensor | np.ndarray, noise_std: NoiseStd = 0.05) -> None:
        if isinstance(mask, (str, Path)):
            raise InputError(f"mask is {str(mask)!r}; expected a tensor, or RandomInpainting.from_file(path)")
        mask = numbers("mask", mask, "a tensor (B, 1, H, W), (B, H, W) or (H, W) of 0 (dropped) and 1 (kept)")
        mask = mask[None] if mask.ndim == 2 else mask
        mask = mask[:, None] if mask.ndim == 3 else mask
        if mask.ndim != 4 or mask.shape[1] != 1:
            raise InputError(f"mask of shape {tuple(mask.shape)}; expected (B, 1, H, W), (B, H, W) or (H, W)")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError("mask has values other than 0 (dropped) and 1 (kept)")
        super().__init__({"mask": mask.float()}, noise_std)

    @classmethod
    def from_ratio(
        cls, ratio: PerImage, size: Size, generator: torch.Generator | None = None, noise_std: NoiseStd = 0.05
    ) -> Self:
        """Draw a mask per image that drops each pixel with probability `ratio`; raises InputError outside [0, 1]."""
        share = per_image("ratio", ratio, "numbers in [0, 1]", between(0, 1))
        field = torch.rand(len(share), 1, *size, generator=generator, device=generator.device if generator else "cpu")
        return cls((field.to(share.device) >= share.view(-1, 1, 1, 1)).float(), noise_std)

    @classmethod
    def from_file(
        cls,
        mask: Path,
        size: Size | None = None,
        noise_std: NoiseStd = 0.05,
        image: Path | None = None,
        original: Size | None = None,
    ) -> Self:
        """Read a mask from an image file, see `read_mask`; "alpha", if no such file exists, is that of `image` itself.

        If the image was cropped and resized to `size`, a mask of its `original` size is too. Raises as `read_mask`.
        """
        mask = Path(mask)  # or a str
        own = str(mask) == ALPHA and image is not None and not mask.exists()
        kept = read_mask(image, ALPHA) if own and image is not None else read_mask(mask)
        if size is not None and kept.shape[2:] == original:
            kept = fit_mask(kept, *size)
        return cls(kept, noise_std)

    @classmethod
    def scribbled(cls, width: PerImage, size: Size, generator: torch.Generator, noise_std: NoiseStd = 0.05) -> Self:
        """Draw a mask per image that drops what a pen goes over; `width` is its share of the shorter side.

        Raises:
            InputError: a width outside [0, 1].
        """
        radius = per_image("pen width", width, "shares of the image in [0, 1]", between(0, 1)) * min(size) / 2
        return cls((distance_to_scribble(len(radius), size, generator) > radius.view(-1, 1, 1, 1)).float(), noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        dropped = 1 - self.params["mask"].mean(dim=(1, 2, 3))
        return [{"physics": self.name, "ratio": round(r, 4)} for r in dropped.tolist()]

    def check_size(self, size: Size) -> None:
        own = self.params["mask"].shape[2], self.params["mask"].shape[3]
        if size != own:
            raise InputError(
                f"images of {sized(*size)} with a mask of {sized(*own)}; expected one size: crop and resize the mask "
                "as its image was, without smoothing"
            )

    def window(self, part: Window) -> Self:
        return self._with(_params={"mask": part.of(self.params["mask"]).clone()}, _derived={})

    def lost(self, x: Tensor) -> Tensor:
        self.check_size((x.shape[2], x.shape[3]))
        return self.derived("lost", x, lambda: self.params["mask"] == 0)


class BoxInpainting(_Inpainting):
    """The pixels of a box are lost, all channels together; they read 0 (plus noise, which is ignored).

    Args:
        top: first row of the box, in pixels from the top: whole numbers, one for all images or one per image.
        left: first column, likewise.
        height: rows of the box, likewise; 0 loses nothing.
        width: columns of the box, likewise.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: negative or fractional numbers, different numbers of them, or a box that does not fit the images.
    """

    name = "box-inpainting"

    def __init__(
        self, top: PerImage, left: PerImage, height: PerImage, width: PerImage, noise_std: NoiseStd = 0.05
    ) -> None:
        given = {"top": top, "left": left, "height": height, "width": width}
        params = {
            key: per_image(f"box {key}", value, "whole numbers >= 0 (pixels)", whole(0)).to(torch.int64)
            for key, value in given.items()
        }
        super().__init__(params, noise_std)

    @classmethod
    def from_side(cls, side: PerImage, size: Size, generator: torch.Generator, noise_std: NoiseStd = 0.05) -> Self:
        """Draw the place of a square box per image of `size` (H, W); `side` is a share of the shorter side.

        Raises:
            InputError: a side outside [0, 1].
        """
        pixels = (per_image("box side", side, "shares of the image in [0, 1]", between(0, 1)) * min(size)).round()
        unit = torch.rand(2, len(pixels), generator=generator, device=generator.device).to(pixels.device)
        top, left = ((unit[i] * (size[i] - pixels + 1)).floor() for i in (0, 1))
        return cls(top, left, pixels, pixels, noise_std)

    def check_size(self, size: Size) -> None:
        self._mask(*size)

    def window(self, part: Window) -> Self:
        """As of any; what of the box lies beyond is no part of it."""
        params: dict[str, Tensor] = {}
        for start, length, first, count in (
            ("top", "height", part.top, part.height),
            ("left", "width", part.left, part.width),
        ):
            begin = (self.params[start] - first).clamp(0, count)
            params |= {start: begin, length: (self.params[start] + self.params[length] - first).clamp(0, count) - begin}
        return self._with(_params={key: params[key] for key in self.params}, _derived={})

    def lost(self, x: Tensor) -> Tensor:
        return self.derived(tuple(x.shape[2:]), x, lambda: self._mask(*x.shape[2:]))

    def _mask(self, height: int, width: int) -> Tensor:
        """True inside the box, (B, 1, height, width)."""
        rows = self._span("top", "height", height, sized(height, width))
        return (rows[:, :, None] & self._span("left", "width", width, sized(height, width))[:, None])[:, None]

    def _span(self, start: str, length: str, size: int, whole: str) -> Tensor:
        """(B, size) along one axis, true inside the box."""
        first, count = self.params[start][:, None], self.params[length][:, None]
        if bool((first + count > size).any()):
            raise InputError(
                f"box of {start} {first.flatten().tolist()} and {length} {count.flatten().tolist()} does not "
                f"fit images of {whole}"
            )
        place = torch.arange(size, device=first.device)
        return (place >= first) & (place < first + count)


register_physics(
    RandomInpainting,
    forms=[Form(RandomInpainting.from_ratio, drawn="which pixels are lost"), Form(RandomInpainting.from_file)],
    tasks=[
        Task("random-inpainting", "ratio", 0.7, 0.8, RandomInpainting.from_ratio, ordering=(0.1, 0.9)),
        Task("scribble", "width", 0.03, 0.2, RandomInpainting.scribbled, ordering=(0.03, 0.2)),
        Task("random-inpainting-any", "ratio", 0.0, 0.95, RandomInpainting.from_ratio, ordering=(0.1, 0.9)),
    ],
)
register_physics(
    BoxInpainting,
    forms=[Form(BoxInpainting)],
    tasks=[Task("box-inpainting", "side", 0.2, 0.5, BoxInpainting.from_side, ordering=(0.1, 0.7))],
)
