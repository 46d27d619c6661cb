"""How a picture is cut into overlapping tiles, and how much of each place comes from which tile."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.data import encode_image
from flashdiffusion.errors import InputError
from flashdiffusion.model import Model
from flashdiffusion.physics import BatchedPhysics, Window
from flashdiffusion.physics.base import Size
from flashdiffusion.severity import coloured
from flashdiffusion.solvers.rows import Unknown

MANY = 100  # steps of a tile that are shown as the most
SCALE = f"Denoiser evaluations of each tile: logarithmic, from 0 (dark blue) to {MANY} or more (yellow)"
BLEND = 8  # neighbours blend over a tile's side over this, or more
Cuttable = BatchedPhysics | Unknown  # if its halo is known


@dataclass(frozen=True)
class Axis:
    """One side of a picture, cut.

    spans: where tiles begin and end, in pixels. halo: pixels that count nothing along borders that are cut.
    """

    spans: tuple[tuple[int, int], ...]
    halo: int = 0

    @classmethod
    def cut(cls, side: int, tile: int, step: int, halo: int) -> "Axis":
        """Cut a side into tiles of up to `tile` pixels, evenly; borders are multiples of `step`, but at its end.

        Neighbours overlap by at least 2 halos and an eighth of a tile.

        Raises:
            InputError: a tile that is too small for that.
        """
        if side <= tile:
            return cls(((0, side),), halo)
        own, shift = tile // step, _shift(tile, step, halo)
        if shift < 1:
            least = next(n for n in range(step, 2**31, step) if _shift(n, step, halo) > 0)
            raise InputError(
                f"tile is {tile}; expected at least {least} pixels: neighbours overlap by twice the halo of {halo} and "
                f"{math.ceil(least / BLEND)} to blend, in steps of {step}"
            )
        beyond = -(-side // step) - own  # of the first tile
        last = -(-beyond // shift)
        starts = [step * (n * beyond // last) for n in range(last + 1)]
        return cls(tuple((start, min(start + own * step, side)) for start in starts), halo)

    def core(self, number: int, side: int = 1) -> tuple[int, int]:
        """Where a tile begins and ends if each overlap is shared in halves, in multiples of `side`."""
        begin, end = self.spans[number]
        if number > 0:
            begin += (self.spans[number - 1][1] - begin) // 2 // side * side
        if number + 1 < len(self.spans):
            following = self.spans[number + 1][0]
            end = following + (end - following) // 2 // side * side
        return begin, end

    def weights(self, number: int) -> Tensor:
        """What each pixel of a tile counts, float64 (its length,): those of all tiles sum to 1 everywhere."""
        begin, end = self.spans[number]
        place = torch.arange(begin, end, dtype=torch.float64) + 0.5
        return self._begun(number, place) - self._begun(number + 1, place)

    def _begun(self, number: int, place: Tensor) -> Tensor:
        """How much of each place tile `number` and those after it have: 0 to 1 between the halos of its border."""
        if number in {0, len(self.spans)}:
            return torch.full_like(place, float(number == 0))
        first, last = self.spans[number][0] + self.halo, self.spans[number - 1][1] - self.halo
        return (1 - torch.cos(math.pi * ((place - first) / (last - first)).clamp(0, 1))) / 2


def _shift(tile: int, step: int, halo: int) -> int:
    """From a tile to the next, in steps, at most."""
    return tile // step - -(-(2 * halo + math.ceil(tile / BLEND)) // step)


@dataclass(frozen=True)
class Tiling:
    """A picture of `size` (H, W) cut into rows and columns of tiles."""

    rows: Axis
    columns: Axis

    @classmethod
    def cut(cls, size: Size, tile: int, physics: Cuttable, unit: int) -> "Tiling | None":
        """Cut a picture into tiles of up to `tile` pixels a side; None if it is no larger.

        Args:
            physics: of this picture alone, with a halo.
            unit: sides that networks take are multiples of it, in pixels.

        Raises:
            InputError: a tile that is too small, or a physics of pictures of another size.
        """
        step = math.lcm(unit, physics.alignment)
        if max(size) <= tile:
            return None
        physics.check_size(size)
        rows, columns = (Axis.cut(side, tile, step, physics.halo or 0) for side in size)
        return cls(rows, columns)

    @property
    def size(self) -> Size:
        """Height and width of the picture."""
        return self.rows.spans[-1][1], self.columns.spans[-1][1]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows of tiles, and of columns."""
        return len(self.rows.spans), len(self.columns.spans)

    def core(self, row: int, column: int, side: int = 1) -> Window:
        """Where a tile is the only one: a picture's cores do not overlap. Borders are multiples of `side` pixels."""
        (top, bottom), (left, right) = self.rows.core(row, side), self.columns.core(column, side)
        return Window(top, left, bottom - top, right - left)

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Row and column of every tile, those of equal size one after the other."""
        every = [(row, column) for row in range(self.shape[0]) for column in range(self.shape[1])]
        return sorted(every, key=lambda place: [-side for side in self.window(*place).size])

    def window(self, row: int, column: int) -> Window:
        """Where a tile lies."""
        (top, bottom), (left, right) = self.rows.spans[row], self.columns.spans[column]
        return Window(top, left, bottom - top, right - left)

    def weights(self, row: int, column: int, side: int = 1) -> Tensor:
        """What each pixel of a tile counts, float32 (h, w); or each square of `side` pixels, on average."""
        down, across = (
            _averaged(axis.weights(number), side) for axis, number in ((self.rows, row), (self.columns, column))
        )
        return (down[:, None] * across).float()


def _averaged(weights: Tensor, side: int) -> Tensor:
    """Mean of each `side` of them, of which the last may be fewer."""
    return torch.stack([part.mean() for part in weights.split(side)])


def tiling_of(y: Tensor, physics: Any, model: Model, tile: int | None) -> Tiling | str | None:
    """Say how a picture is cut; None if it is small enough, and why if it is large and cannot be cut.

    Args:
        y: its measurements, (1, ...).
        physics: of this picture alone.
        tile: see `Model.tile_for`.

    Raises:
        InputError: as `Tiling.cut`.
    """
    if tile == 0 or y.ndim != 4:
        return None
    own = physics if isinstance(physics, Cuttable) else None
    side = 1 if own is None else own.pixel_size
    size = side * y.shape[2], side * y.shape[3]
    if not (chosen := model.tile_for(size, own, tile)):
        return None
    if own is None or own.halo is None:
        name = getattr(physics, "name", type(physics).__name__)
        return f"{name} cannot be cut into tiles: a measurement may depend on the whole picture"
    return Tiling.cut(size, chosen, own, model.prior.unit)


@dataclass(frozen=True)
class TileMap:
    """What is known of the tiles of a picture; tensors on the CPU with a row for each row of tiles, (R, C).

    rows, columns: where they begin and end, in pixels. severity: σ̂² in scaled latent units, float32, NaN where none was
    estimated. start_step: time of the start on the full schedule, int64. nfe: denoiser evaluations, int64.
    """

    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]
    severity: Tensor
    start_step: Tensor
    nfe: Tensor

    @property
    def size(self) -> Size:
        """Height and width of the picture."""
        return self.rows[-1][1], self.columns[-1][1]

    @property
    def picture(self) -> Tensor:
        """Steps as a picture (3, H, W): each tile where it is the only one.

        The colours stand for its NFE, on a logarithmic scale from 0 (dark blue) to `MANY` or more (yellow), so that
        pictures compare.
        """
        steps = self.nfe.float().log1p() / math.log1p(MANY)
        for axis, spans in enumerate((self.rows, self.columns)):
            cores = [Axis(spans).core(number) for number in range(len(spans))]
            steps = steps.repeat_interleave(torch.tensor([end - begin for begin, end in cores]), dim=axis)
        return coloured(steps)

    @property
    def png(self) -> bytes:
        """The picture as PNG, whose text Description says what the colours stand for."""
        return encode_image(self.picture, SCALE)

    def plain(self) -> dict[str, Any]:
        """The same as lists, for records; no severities where none were estimated."""
        severity = [[float(f"{value:.6g}") for value in row] for row in self.severity.tolist()]
        known = {} if self.severity.isnan().all() else {"severity": severity}
        own: dict[str, Any] = {"rows": [*map(list, self.rows)], "columns": [*map(list, self.columns)]}
        return own | known | {"start_step": self.start_step.tolist(), "nfe": self.nfe.tolist()}
