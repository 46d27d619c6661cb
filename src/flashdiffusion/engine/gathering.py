"""Pictures that are restored in tiles: cut as slots come free, and put together as tiles finish."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from flashdiffusion.engine.batch import Batch, Restored
from flashdiffusion.engine.kept import KeptTiles
from flashdiffusion.engine.tiling import Cuttable, TileMap, Tiling
from flashdiffusion.errors import InputError, counted
from flashdiffusion.physics import BatchedPhysics, Window, concatenate

TOGETHER = 16  # tiles, or requests to a service, that are given their start together


@dataclass(kw_only=True)
class RestoredTile(Restored):
    """A tile as it leaves the engine, for its picture.

    place: its row and column. kept: whether it was done in an earlier run, and is read when it is its turn.
    """

    picture: "Picture"
    place: tuple[int, int]
    kept: bool = False

    @property
    def whose(self) -> Hashable:
        return id(self.picture)

    @property
    def share(self) -> float:
        return self.picture.result.share / len(self.picture.tiling.places)

    def set_out(self) -> None:
        self.picture.flying[id(self)] = self
        if self.picture.result.failed is not None:  # meanwhile
            self.fail("another tile failed")


class Picture:
    """A picture of which tiles are on their way.

    Args:
        result: what comes of it, filled in on the way; its figures are means over the tiles, by their area.
        tiling: how it is cut.
        factor: side of a place of the latent, in pixels.
        kept: where its tiles are kept; None for nowhere.
    """

    def __init__(self, result: Restored, tiling: Tiling, factor: int, kept: KeptTiles | None = None) -> None:
        self.result, self.tiling, self.factor, self.kept = result, tiling, factor, kept
        self.image: Tensor | None = None
        self.variance: Tensor | None = None  # at each place of the latent
        self.left = len(tiling.places)  # tiles that are not done
        self.flying: dict[int, RestoredTile] = {}  # those with a start, by identity; they come from another thread
        figures = (torch.full(tiling.shape, float("nan")), *(torch.zeros(tiling.shape).long() for _ in range(2)))
        self.tiles = TileMap(tiling.rows.spans, tiling.columns.spans, *figures)

    @property
    def done(self) -> bool:
        """Whether no tile is to come, or it failed."""
        return self.left == 0 or self.result.failed is not None

    def tile(self, place: tuple[int, int], failed: str | None = None, kept: bool = False) -> RestoredTile:
        """Begin the result of a tile."""
        result = self.result
        failed = failed or result.failed
        return RestoredTile(result.index, result.id, failed=failed, picture=self, place=place, kept=kept)

    def add(self, tile: RestoredTile) -> Restored | None:
        """Take a tile that is done; give the picture's result if that is known now, once."""
        self.flying.pop(id(tile), None)
        if self.result.failed is not None:
            return None
        try:
            if self.kept is not None and tile.kept:
                self.kept.fill(tile.place, tile)
            elif self.kept is not None and tile.image is not None:
                self.kept.keep(tile.place, tile)
        except InputError as error:
            tile.fail(str(error))
        if tile.failed is not None:
            return self._give_up(tile)
        self._blend(tile)
        self.left -= 1
        return None if self.left else self._finished()

    def _give_up(self, tile: RestoredTile) -> Restored:
        """Fail the picture, and the tiles that are still on their way, so that they take no more steps."""
        row, column = tile.place
        self.result.fail(f"{tile.failed} (tile in row {row + 1}, column {column + 1} of {self._shape})")
        for other in list(self.flying.values()):
            other.fail("another tile failed")
        self.image = self.variance = None
        return self.result

    @property
    def _shape(self) -> str:
        rows, columns = self.tiling.shape
        return f"{counted(rows, 'row')} and {counted(columns, 'column')}"

    def _blend(self, tile: RestoredTile) -> None:
        window, result = self.tiling.window(*tile.place), self.result
        if tile.image is not None:  # there is none where severities alone are wanted
            if self.image is None:
                self.image = torch.zeros(tile.image.shape[0], *self.tiling.size)
            window.of(self.image).add_(tile.image * self.tiling.weights(*tile.place))
        if tile.severity_map is not None:
            if self.variance is None:
                self.variance = torch.zeros([-(-side // self.factor) for side in self.tiling.size])
            weights = self.tiling.weights(*tile.place, self.factor)
            window.in_units(self.factor).of(self.variance).add_(tile.severity_map * weights)
        if tile.severity is not None:
            self.tiles.severity[tile.place] = tile.severity
        self.tiles.start_step[tile.place], self.tiles.nfe[tile.place] = tile.start_step, tile.nfe
        result.gflop += tile.gflop
        result.seconds += tile.seconds
        result.physics_corrected |= tile.physics_corrected
        tile.image = tile.severity_map = None

    def _finished(self) -> Restored:
        result, tiles = self.result, self.tiles
        area = torch.zeros(self.tiling.shape, dtype=torch.float64)
        for place in self.tiling.places:
            area[place] = self.tiling.window(*place).height * self.tiling.window(*place).width
        area /= area.sum()
        result.image, result.severity_map, result.tiles = self.image, self.variance, tiles
        result.start_step = round(float((area * tiles.start_step).sum()))
        result.nfe = float((area * tiles.nfe).sum())
        if not bool(tiles.severity.isnan().any()):
            result.severity = float((area * tiles.severity).sum() if self.variance is None else self.variance.mean())
        return result


@dataclass(frozen=True, kw_only=True)
class TileBatch(Batch):
    """Tiles of one picture, of one size; a picture for each sample."""

    pictures: list[Picture]
    places: list[tuple[int, int]]

    def result(self, row: int, first: int, sample: int, failed: str | None = None) -> Restored:
        return self.pictures[sample].tile(self.places[row], failed)

    def latent_window(self, row: int) -> Window:
        """Where a tile lies in the picture's latent, in places."""
        picture = self.pictures[0]
        return picture.tiling.window(*self.places[row]).in_units(picture.factor)


def tiles_of(
    batch: Batch, row: int, first: int, tiling: Tiling, factor: int
) -> Iterator[TileBatch | list[RestoredTile]]:
    """Cut a row of a batch into its tiles, as they are asked for, until its picture fails.

    Those that an earlier run kept come first, as results.

    Args:
        first: place of the batch's first image among all.
        factor: side of a place of the latent, in pixels.
    """
    folder = None if batch.kept is None or batch.samples > 1 else batch.kept[row]
    kept = None if folder is None else KeptTiles(folder)
    pictures = [Picture(batch.result(row, first, sample), tiling, factor, kept) for sample in range(batch.samples)]
    done = [] if kept is None else [place for place in tiling.places if kept.has(place)]
    if done:
        yield [pictures[0].tile(place, kept=True) for place in done]
    own, y = batch.physics, batch.y[row]
    if isinstance(own, BatchedPhysics) and len(own) > 1:
        own = own.take(torch.tensor([row]))
    assert isinstance(own, Cuttable)
    missing = [place for place in tiling.places if place not in done]
    for _, alike in groupby(missing, key=lambda place: tiling.window(*place).size):
        places = [*alike]
        for begin in range(0, len(places), TOGETHER):
            some = places[begin : begin + TOGETHER]
            if all(picture.result.failed is not None for picture in pictures):
                return
            windows = [tiling.window(*place) for place in some]
            cut = torch.stack([window.in_units(own.pixel_size).of(y) for window in windows])
            operators = concatenate([own.window(one) for one in windows]) if isinstance(own, BatchedPhysics) else own
            ids = [batch.ids[row]] * len(some)
            yield TileBatch(
                *(ids, cut, operators, batch.settings),
                samples=batch.samples,
                method=batch.method,
                seed=batch.seed,
                cancellations=[batch.cancellation(row)] * len(some),
                pictures=pictures,
                places=some,
            )
