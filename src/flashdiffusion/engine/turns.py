"""Batches that come when they come, and pictures in tiles, in turns: none waits for the last tile of another."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flashdiffusion.engine.batch import Batch, Failed
from flashdiffusion.engine.gathering import TOGETHER, Picture
from flashdiffusion.engine.slots import InFlight

Begun = tuple[list[InFlight], list[Picture]]  # images that got a start, and whose tiles they are, if they are tiles
END: Any = object()


def in_turns(
    batches: Iterable[Batch | Failed], begin: Callable[[Batch | Failed], Iterator[Begun]]
) -> Iterator[list[InFlight] | None]:
    """Begin batches as they come; after each, some tiles of one of the pictures that are being cut, in turn.

    A picture whose tiles wait for slots begins no more of them. None in place of starts says that there is nothing to
    begin at the moment. A batch is asked for when there is nothing else to begin, or beside it, in a thread.
    """
    source = iter(batches)
    pictures: deque[_Cutting] = deque()
    asked: Future[Any] | None = None
    pool = ThreadPoolExecutor(1, "asking")
    try:
        while True:
            asked = asked or pool.submit(next, source, END)
            if asked.done() or not pictures:
                if (batch := asked.result()) is END:
                    break
                asked = None
                own = _Cutting(begin(batch))
                yield own.next()
                pictures.append(own)
            yield _turn(pictures)
        while pictures:
            yield _turn(pictures)
    finally:
        pool.shutdown(wait=False)  # a source that waits may wait for long


class _Cutting:
    """A batch that is being begun; `last` are the pictures of its last tiles."""

    def __init__(self, begun: Iterator[Begun]) -> None:
        self.begun, self.last, self.ended = begun, list[Picture](), False

    @property
    def waits(self) -> bool:
        """Whether there are enough of its tiles on their way."""
        return any(len(picture.flying) > TOGETHER for picture in self.last)

    def next(self) -> list[InFlight]:
        """Begin some more."""
        started, self.last = next(self.begun, (END, []))
        self.ended = started is END
        return [] if self.ended else started


def _turn(pictures: "deque[_Cutting]") -> list[InFlight] | None:
    """Begin tiles of the next that may."""
    for _ in range(len(pictures)):
        own = pictures.popleft()
        if own.waits:
            pictures.append(own)
            continue
        started = own.next()
        if not own.ended:
            pictures.append(own)
        return started
    return None
