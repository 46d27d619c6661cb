"""How far a stream is, as its engine tells."""

from collections.abc import Callable, Iterable, Sequence

from flashdiffusion.engine.batch import Restored
from flashdiffusion.engine.gathering import Picture, RestoredTile
from flashdiffusion.engine.slots import InFlight
from flashdiffusion.errors import counted
from flashdiffusion.progress import Done

ROUNDING = 1e-6  # of images that are sums of samples


class Progress:
    """Counts images, tiles and steps of a stream, of which a thread makes the starts.

    What is left is estimated by the work of what has begun: each image or tile is its steps, and one more for its start
    and end. What comes without a start, such as the tiles of an earlier run, is left out of that.

    Args:
        total: images that are to come, None if that is not known.
        show: called with what is done whenever that changes, in the thread that runs the stream.
        stepping: whether steps are made; if not, a bar is of images.
    """

    def __init__(
        self, total: int | None = None, show: Callable[[Done], None] = lambda done: None, stepping: bool = True
    ) -> None:
        self.total, self.show, self.stepping = total, show, stepping
        self.images = 0.0  # that are done, of which a sample is a part
        self.picture: Picture | None = None  # in tiles, that one is of which a tile was done last
        self.steps = self.planned = 0
        self.begun = self.ended = 0  # images and tiles that have a start
        self.begun_share = self.spared_share = 0.0  # the same in images, and those without a start
        self._cut: dict[int, float] = {}  # what has come of pictures in tiles, in images, by identity
        self._under_way: dict[int, InFlight] = {}  # by the identity of their results

    def begin(self, started: Sequence[InFlight]) -> None:
        """Take images and tiles that have their start."""
        self.planned += sum(one.k for one in started) if self.stepping else 0
        self.begun += len(started)
        self._under_way |= {id(one.result): one for one in started}
        self.begun_share += self._shares(one.result for one in started)

    def spare(self, results: Iterable[Restored]) -> None:
        """Take images and tiles that failed or are done without a start."""
        self.spared_share += self._shares(results)

    def _shares(self, results: Iterable[Restored]) -> float:
        total = 0.0
        for one in results:
            if isinstance(one, RestoredTile):
                if one.picture.result.failed is not None:
                    continue  # all of it is counted when it fails
                self._cut[id(one.picture)] = self._cut.get(id(one.picture), 0.0) + one.share
                if self.picture is None and not one.picture.done:
                    self.picture = one.picture
            total += one.share
        return total

    def step(self, images: int) -> None:
        """Take a step that moved so many images."""
        self.steps += images
        self.show(self.done)

    def end(self, one: Restored, given: Restored | None) -> None:
        """Take an image or a tile that leaves; `given`: the image that it is, or ends."""
        tile = one if isinstance(one, RestoredTile) else None
        if (begun := self._under_way.pop(id(one), None)) is not None:
            self.ended += 1
            if one.failed is not None and self.stepping:
                self.planned -= begun.k  # steps that it will not make
        self.images += 0.0 if given is None else given.share
        if tile is not None:
            come = self._cut.pop(id(tile.picture), 0.0) if given is not None else 0.0
            if given is not None and given.failed is not None:
                self.spared_share += given.share - come  # tiles that will not be cut
            self.picture = None if tile.picture.done else tile.picture
        self.show(self.done)

    @property
    def done(self) -> Done:
        """What is done."""
        images = int(self.images + ROUNDING)
        text = counted(images, "image")
        if self.total is not None:
            text = f"{images} of {counted(self.total, 'image')}"
        if (picture := self.picture) is not None:
            tiles = len(picture.tiling.places)
            text += f", {tiles - picture.left} of {counted(tiles, 'tile')} of {picture.result.id}"
        count, total = (self.steps, self.planned) if self.stepping else (images, self.total or 0)
        return Done(count, total, text, self._share())

    def _share(self) -> float:
        if self.total is None or not self.begun:
            return 0.0
        ended = (self.steps + self.ended) / (self.planned + self.begun)
        return min(1.0, ended * self.begun_share / max(self.begun_share, self.total - self.spared_share))
