"""How many images at a time, and what to do when fewer fit than was thought."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from flashdiffusion.engine.memory import free_bytes, release
from flashdiffusion.errors import FlashDiffusionError, InputError, is_out_of_memory

Row = TypeVar("Row")
Result = TypeVar("Result")

# Images at a time that no max_in_flight chosen here exceeds; more bring no speed on a CPU (docs/performance.md).
BOUND_CPU, BOUND_GPU = 16, 256
# Part of the free memory that is used, and what a step needs beside the tensors kept for its gradient.
USED, WORKING = 0.8, 2.0
OUT_OF_MEMORY = "out of memory, even alone"


@dataclass
class Limit:
    """At most `rows` in one call; lowered where even those are too many."""

    rows: int

    def lower(self, rows: int) -> None:
        self.rows = max(1, min(self.rows, rows))


class Capacity:
    """Images in flight, and how many of one kind step together.

    Args:
        rows: a fixed number; None chooses one when the first image of a kind has made a step, alone (`fit`).

    Raises:
        InputError: rows < 1.
    """

    def __init__(self, rows: int | None = None) -> None:
        if rows is not None and rows < 1:
            raise InputError(f"max_in_flight is {rows}; expected at least 1")
        self.given = rows
        self._limits: dict[Hashable, Limit] = {}
        self._fitted: set[Hashable] = set()

    @property
    def rows(self) -> int:
        """Images in flight: as many as step together of the kind that allows the most."""
        known = [limit.rows for kind, limit in self._limits.items() if self.fits(kind)]
        return max(known, default=self.given or BOUND_CPU)

    def limit(self, kind: Hashable) -> Limit:
        """Of one kind of image: those that can share a step."""
        return self._limits.setdefault(kind, Limit(self.given or 1))

    def fits(self, kind: Hashable) -> bool:
        """Whether it is known how many of this kind fit."""
        return self.given is not None or kind in self._fitted

    def fit(self, kind: Hashable, needed: float, device: torch.device) -> None:
        """Set the limit of a kind whose images need so many bytes each, by what is free."""
        bound = BOUND_CPU if device.type == "cpu" else BOUND_GPU
        self.limit(kind).rows = max(1, min(bound, int(USED * free_bytes(device) / max(1, WORKING * needed))))
        self._fitted.add(kind)


@dataclass(frozen=True)
class Failure:
    """Why an image could not be worked on."""

    reason: str


def in_parts(
    call: Callable[[list[Row]], Result], rows: Sequence[Row], limit: Limit
) -> Iterator[tuple[list[Row], Result | Failure]]:
    """`call` on at most `limit` rows at a time.

    What runs out of memory is tried in halves, which lower the limit; one row alone is tried a second time, since
    others may have held the memory. What is refused is tried in halves until the row that it is for is alone.
    """
    todo = [list(rows)]
    again = False
    while todo:
        part, size = todo.pop(), limit.rows
        if len(part) > size:
            todo += [part[first : first + size] for first in range(0, len(part), size)][::-1]
            continue
        result: Result | Failure
        exhausted = False
        try:
            result = call(part)
        except (FlashDiffusionError, RuntimeError, MemoryError) as error:
            exhausted = is_out_of_memory(error)
            if exhausted:
                result = Failure(OUT_OF_MEMORY)
                limit.lower(len(part) // 2)
            elif isinstance(error, FlashDiffusionError):
                result = Failure(str(error))
            else:
                raise
        if exhausted:
            release()  # after the handler: its traceback held the tensors of the attempt
        if isinstance(result, Failure) and len(part) > 1:
            half = len(part) // 2
            todo += [part[half:], part[:half]]
        elif exhausted and not again:
            again = True
            todo.append(part)
        else:
            again = False
            yield part, result
