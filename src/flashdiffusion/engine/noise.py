"""Noise of images: each has its own, and that of a tile is a function of its place in the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flashdiffusion.physics import Window
from flashdiffusion.seeds import image_generator

BLOCK = 32  # side of what is drawn together, in places of the latent


class NoiseSource(Protocol):
    """Standard normal noise of one image, on the CPU."""

    def __call__(self, shape: Sequence[int], k: int | None = None) -> Tensor:
        """Draw noise of `shape` (..., h, w) for the step from grid position k; None is its start."""
        ...


@dataclass(frozen=True)
class ImageNoise:
    """Noise of an image that is restored whole, drawn as it is asked for."""

    generator: torch.Generator

    def __call__(self, shape: Sequence[int], k: int | None = None) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


@dataclass(frozen=True)
class TileNoise:
    """Noise of a tile: tiles of one picture that overlap have the same at the same k and place.

    Every block of the picture's latent has a generator, of (seed, id, k, its row and column).

    Args:
        seed: of the run.
        id: the picture's.
        window: where the tile lies, in places of the picture's latent.
    """

    seed: int
    id: str
    window: Window

    def __call__(self, shape: Sequence[int], k: int | None = None) -> Tensor:
        top, left, (height, width) = self.window.top, self.window.left, shape[-2:]
        rows, columns = (range(first // BLOCK, -(-(first + n) // BLOCK)) for first, n in ((top, height), (left, width)))
        lines = [torch.cat([self._block(shape[:-2], k, row, column) for column in columns], dim=-1) for row in rows]
        whole = torch.cat(lines, dim=-2)
        return Window(top - BLOCK * rows[0], left - BLOCK * columns[0], height, width).of(whole).contiguous()

    def _block(self, shape: Sequence[int], k: int | None, row: int, column: int) -> Tensor:
        when = "start" if k is None else k
        generator = image_generator(self.seed, self.id, f"sampling/{when}/{row}/{column}")
        return torch.randn(*shape, BLOCK, BLOCK, generator=generator)
