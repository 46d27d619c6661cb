"""From batches of measurements to restored images, as they finish."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from flashdiffusion.data import polled
from flashdiffusion.engine.batch import Batch, Failed, Restored
from flashdiffusion.engine.capacity import OUT_OF_MEMORY, Capacity
from flashdiffusion.engine.cost import Costs
from flashdiffusion.engine.decoding import Decoding
from flashdiffusion.engine.gathering import RestoredTile
from flashdiffusion.engine.options import StreamOptions
from flashdiffusion.engine.slots import InFlight, Slots
from flashdiffusion.engine.starting import Starting
from flashdiffusion.engine.turns import Begun, in_turns
from flashdiffusion.model import Model


class Stream:
    """One run of a model over batches."""

    def __init__(self, model: Model, options: StreamOptions) -> None:
        self.model, self.options = model, options
        self.capacity, self.costs = Capacity(options.max_in_flight), Costs()
        self.starting = Starting(model, options, self.costs)
        self.decoding = Decoding(model.prior, self.costs, model.compiled)
        self.taken = self.steps = 0  # images in; steps shown to a callback
        self.broken: Exception | None = None  # what ended the source of batches
        self.startless: deque[Restored] = deque()  # those that failed before, or are done already
        self.whole: dict[int, str] = {}  # why an image is not cut into tiles, by its place among all

    def run(self, batches: Iterable[Batch | Failed]) -> Iterator[Restored]:
        """Restore; each image is yielded once, in the order in which they finish.

        An error of the source of batches is raised once all that came before it has been given.

        Raises:
            RuntimeError: an image has neither a result nor a failure, which would be a fault of this library.
        """
        return self._given(self._run(batches))

    def begin(self, batches: Iterable[Batch | Failed]) -> Iterator[Restored]:
        """Give each image with its severity and start, as `run` would begin it, and without an image; raises alike."""
        return self._given(self._begin(batches))

    def _given(self, left: Iterable[Restored]) -> Iterator[Restored]:
        """Images, of what has left."""
        given = 0
        for one in left:
            if (result := self._gathered(one)) is not None:
                given += 1
                yield result
        if self.broken is not None:
            raise self.broken
        if given != self.taken:
            raise RuntimeError(f"{self.taken} images went in and {given} came out; please report this fault")

    def _run(self, batches: Iterable[Batch | Failed]) -> Iterator[Restored]:
        view = None if self.options.callback is None else self._view
        live = self.options.live
        slots = Slots(self.capacity, self._stepped, self.model.compiled, view, self.costs, turns=live)
        done = list[InFlight]()
        for finished in slots.run(polled(self._started(batches), lambda: slots.idle or not live)):
            done += finished
            if done and (live or len(done) * 4 >= self.capacity.rows):  # decoding one at a time would leave a GPU idle
                yield from self.decoding.decode(done)
                done = []
            if live:
                yield from self.decoding.rest()  # and not when others are done
            yield from self._without_start()
        yield from self.decoding.decode(done)
        yield from self.decoding.rest()
        yield from self._without_start()

    def _begin(self, batches: Iterable[Batch | Failed]) -> Iterator[Restored]:
        for started in self._started(batches):
            yield from self._without_start()
            yield from (one.result for one in started or ())
        yield from self._without_start()

    # -- starts, made one batch ahead in a thread of their own --------------------------------------------

    def _started(self, batches: Iterable[Batch | Failed]) -> Iterator[list[InFlight] | None]:
        """Starts; None in place of some says that there are none at the moment."""
        try:
            if self.options.live:
                yield from in_turns(batches, self._of_batch)
                return
            for batch in batches:
                for started, _ in self._of_batch(batch):
                    yield started
        except Exception as error:  # of the source or a start rule: `run` raises it, after the images on their way
            self.broken = error

    def _of_batch(self, batch: Batch | Failed) -> Iterator[Begun]:
        """Starts of what is restored whole, then those of tiles, some at a time, with their pictures."""
        first = self.taken
        if isinstance(batch, Failed):
            self.taken += 1
            self._spare([Restored(first, batch.id, failed=batch.reason, extra=batch.extra)])
            yield [], []
            return
        self.taken += len(batch.y) * batch.samples
        cuts = self.starting.cuts(batch, first)
        self._spare(cuts.refused)
        self.whole |= cuts.whole
        yield self._kept(self.starting(batch, first, cuts.rows)), []
        for tiles in self.starting.tiles(batch, first, cuts):
            if isinstance(tiles, list):
                self._spare(tiles)
                yield [], []
            else:
                yield self._kept(self.starting(tiles, first)), tiles.pictures

    def _kept(self, begun: tuple[list[InFlight], list[Restored]]) -> list[InFlight]:
        """The images that got a start."""
        started, failed = begun
        self._spare(failed)
        for one in started:
            one.result.set_out()
        self.options.progress.begin(started)
        return started

    def _spare(self, results: Sequence[Restored]) -> None:
        """Keep what has no start until it is given."""
        self.options.progress.spare(results)
        self.startless += results

    def _gathered(self, one: Restored) -> Restored | None:
        """An image as it is given; nothing for a tile that does not finish its picture."""
        given: Restored | None = one
        if isinstance(one, RestoredTile):
            given = one.picture.add(one)
        elif one.failed == OUT_OF_MEMORY and (reason := self.whole.get(one.index)) is not None:
            one.fail(f"{one.failed}; {reason}")
        self.options.progress.end(one, given)
        return given

    def _stepped(self, images: int) -> None:
        self.options.on_step(images)
        self.options.progress.step(images)

    def _view(self, rows: list[InFlight], z0: Tensor) -> None:
        """Show what the images of a step would be if they ended now."""
        assert self.options.callback is not None
        self.steps += 1
        with torch.no_grad():
            images = rows[0].problem.cropped(self.model.prior.decode(z0)).float().clamp(0, 1).cpu()
        self.options.callback(self.steps, images, [one.result.id for one in rows])

    def _without_start(self) -> Iterator[Restored]:
        while self.startless:
            yield self.startless.popleft()
