"""Rows of a step side by side on the cores of a CPU."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch

Row = TypeVar("Row")
Result = TypeVar("Result")

# Rows that a lane should have: a step of one or two is the quicker with all cores at each of its operations.
ROWS = 4


class Lanes:
    """Runs a call on parts of its rows, each in a thread with cores of its own.

    Operators that share all cores wait for the slowest at the end of each, some thousand times a step, and for long
    when another process holds a core. Lanes wait for each other once.

    Args:
        device: lanes are for the CPU; on others everything is one part.
    """

    def __init__(self, device: torch.device) -> None:
        self.threads = torch.get_num_threads() if device.type == "cpu" else 1
        self.pool = ThreadPoolExecutor(self.threads, "lane") if self.threads > 1 else None

    def split(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Parts of nearly equal length, one per lane."""
        count = max(1, min(self.threads, len(rows) // ROWS))
        ends = [len(rows) * lane // count for lane in range(count + 1)]
        return [list(rows[first:last]) for first, last in pairwise(ends)]

    def map(self, call: Callable[[list[Row]], Result], parts: Sequence[list[Row]]) -> list[Result]:
        """The call on each part."""
        if self.pool is None or len(parts) == 1:
            return [call(part) for part in parts]
        own = self.threads // len(parts)

        def run(part: list[Row]) -> Result:
            with _threads(own):
                return call(part)

        return list(self.pool.map(run, parts))

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Within, operators of this thread use so many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
