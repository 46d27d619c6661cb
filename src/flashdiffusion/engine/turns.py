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
MOST = 16  # batches that are being begun at a time: tiles in line take memory


def in_turns(
    batches: Iterable[Batch | Failed], begin: Callable[[Batch | Failed], Iterator[Begun]]
) -> Iterator[list[InFlight] | None]:
    """Begin batches as they come; after each, some tiles of one of the pictures that are being cut, in turn.

    A picture whose tiles wait for slots begins no more of them. None in place of starts says that there is nothing to
    begin at the moment. The next batch is asked for in a thread, so that pictures are cut while none comes; not while
    `MOST` of them are being cut.

    An error of the source, or of a start, is raised once all that came before it has begun.
    """
    source = iter(batches)
    cutting: deque[_Cutting] = deque()
    asked: Future[Any] | None = None
    broken: Exception | None = None
    pool = ThreadPoolExecutor(1, "asking")
    try:
        while broken is None:
            started: list[InFlight] | None = None
            try:
                if len(cutting) < MOST:
                    asked = asked or pool.submit(next, source, END)
                    if asked.done() or not cutting:
                        if (batch := asked.result()) is END:
                            break
                        asked = None
                        own = _Cutting(begin(batch))
                        started = own.next()
                        cutting.append(own)
                if started is not None:
                    yield started
                started = _turn(cutting)
            except Exception as error:
                broken = error
                break
            yield started
        while cutting:
            try:
                started = _turn(cutting)
            except Exception as error:
                broken = broken or error
                continue
            yield started
    finally:
        pool.shutdown(wait=False)  # a source that waits may wait for long
    if broken is not None:
        raise broken


class _Cutting:
    """A batch that is being begun; `pictures` are those of its last tiles."""

    def __init__(self, begun: Iterator[Begun]) -> None:
        self.begun, self.pictures, self.ended = begun, list[Picture](), False

    @property
    def waits(self) -> bool:
        """Whether there are enough of its tiles on their way."""
        return any(len(one.flying) > TOGETHER and one.result.failed is None for one in self.pictures)

    def next(self) -> list[InFlight]:
        """Begin some more."""
        started, self.pictures = next(self.begun, (END, []))
        self.ended = started is END
        return [] if self.ended else started


def _turn(cutting: "deque[_Cutting]") -> list[InFlight] | None:
    """Begin tiles of the next that may."""
    for _ in range(len(cutting)):
        own = cutting.popleft()
        if own.waits:
            cutting.append(own)
            continue
        started = own.next()
        if not own.ended:
            cutting.append(own)
        return started
    return None
