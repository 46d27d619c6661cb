"""How far a long run is, on stderr: a bar on a terminal; elsewhere, as in a log, a line now and then."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tqdm.auto import tqdm

from flashdiffusion.errors import counted

EVERY = 30.0  # seconds between lines; a run that ends sooner prints none
DELAY = 2  # seconds before there is a bar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Done:
    """How far a run is.

    count, total: of the bar's units. text: the same in words, for a line. share: of all that is to be done, from 0,
    also where that is not known, to 1. figures: what else a bar shows.
    """

    count: int
    total: int
    text: str
    share: float
    figures: str = ""


class Display:
    """Shows how far a run is.

    Args:
        what: is done, as "restoring".
        unit: of the bar.
        wanted: whether anything is to be shown.
        clock: gives seconds.
        share: what an earlier run did of it, from 0 to 1.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        wanted: bool = True,
        clock: Callable[[], float] = time.monotonic,
        share: float = 0.0,
    ) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.what, self.clock, self.lines = what, clock, wanted and not terminal
        self.bar = tqdm(total=0, unit=unit, desc=what, delay=DELAY, disable=not (wanted and terminal))
        self.began = self.said = clock()
        self.earlier = share

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def show(self, done: Done) -> None:
        """Bring the bar up to date, or print a line if the last is long ago."""
        self.bar.total = done.total
        if done.figures:
            self.bar.set_postfix_str(done.figures, refresh=False)
        self.bar.update(done.count - self.bar.n)
        now = self.clock()
        if not self.lines or now - self.said < EVERY:
            return
        self.said, seconds = now, now - self.began
        own = done.share - self.earlier
        left = f", about {seconds * (1 - done.share) / own:.0f} s left" if own > 0 else ""
        print(f"flashdiffusion: {self.what}: {done.text}, {seconds:.0f} s{left}", file=sys.stderr, flush=True)


def tracked(found: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Give what is found of `total` images, and show how many there are."""
    with Display(what, "image") as display:
        for count, one in enumerate(found, 1):
            display.show(Done(count, total, f"{count} of {counted(total, 'image')}", count / total))
            yield one
