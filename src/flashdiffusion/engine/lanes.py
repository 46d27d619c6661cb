"""Rows of a step side by side on the cores of a CPU."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
        rows: that a step has at most, which is shared by so many lanes as have enough to do.
    """

    def __init__(self, device: torch.device, rows: int) -> None:
        self.threads = torch.get_num_threads()
        self.count = max(1, min(self.threads, rows // ROWS)) if device.type == "cpu" else 1
        self.pool: ThreadPoolExecutor | None = None
        if self.count > 1:
            self.pool = ThreadPoolExecutor(self.count, "lane", torch.set_num_threads, (self.threads // self.count,))

    def split(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Parts of nearly equal length, one per lane."""
        count = max(1, min(self.count, len(rows) // ROWS))
        ends = [len(rows) * lane // count for lane in range(count + 1)]
        return [list(rows[first:last]) for first, last in pairwise(ends)]

    def map(self, call: Callable[[list[Row]], Result], parts: Sequence[list[Row]]) -> list[Result]:
        """The call on each part; a single part has all cores."""
        if self.pool is None or len(parts) == 1:
            return [call(part) for part in parts]
        return list(self.pool.map(call, parts))

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()
            # A lane's number of threads is also what torch gives to every thread that begins after it.
            torch.set_num_threads(self.threads)
