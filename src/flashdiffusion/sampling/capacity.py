"""How many pictures fit into memory at a time, and what to do when fewer do than was thought."""

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psutil
import torch
from torch import Tensor

from flashdiffusion.errors import FlashDiffusionError, InputError
from flashdiffusion.sampling.problem import Problem
from flashdiffusion.sampling.solver import Solver

Row = TypeVar("Row")
Result = TypeVar("Result")

# Pictures at a time that no capacity chosen here exceeds; more bring no speed (benchmarks/engine.py).
BOUND_CPU, BOUND_GPU = 16, 256
# Part of the free memory that is used, and what a step needs beside the tensors kept for its gradient.
USED, WORKING = 0.8, 2.0


class Capacity:
    """At most `rows` pictures at a time.

    Args:
        rows: a fixed number; None chooses one by what is free when the first pictures come (`fit`).

    Raises:
        InputError: rows < 1.
    """

    def __init__(self, rows: int | None = None) -> None:
        if rows is not None and rows < 1:
            raise InputError(f"capacity is {rows}; expected at least 1")
        self.chosen = rows is None
        self.rows = max(BOUND_CPU, BOUND_GPU) if rows is None else rows
        self._fitted: set[Hashable] = set()

    def fit(self, solver: Solver, problem: Problem, row: int, z: Tensor) -> None:
        """Lower a capacity that was not given to what is free for pictures like this one, z (c, h, w)."""
        key = (id(solver), problem.kind, z.shape)
        if not self.chosen or key in self._fitted:
            return
        self._fitted.add(key)
        one = problem.take(torch.tensor([row], device=z.device))
        needed = max(picture_bytes(call) for call in solver.units(z[None], one).values())
        bound = BOUND_CPU if z.device.type == "cpu" else BOUND_GPU
        self.lower(min(bound, int(USED * free_bytes(z.device) / max(1, WORKING * needed))))

    def lower(self, rows: int) -> None:
        """At most so many from now on, and at least one."""
        self.rows = max(1, min(self.rows, rows))


@dataclass(frozen=True)
class Failure:
    """Why a picture could not be worked on."""

    reason: str


def in_parts(
    call: Callable[[list[Row]], Result], rows: Sequence[Row], limit: Capacity
) -> Iterator[tuple[list[Row], Result | Failure]]:
    """`call` on at most `limit` rows at a time.

    What runs out of memory is tried in halves, which lower the limit; what is refused is tried in halves until the row
    that it is for is alone.
    """
    todo = [list(rows)]
    while todo:
        part = todo.pop()
        size = limit.rows
        if len(part) > size:
            todo += [part[first : first + size] for first in range(0, len(part), size)][::-1]
            continue
        result: Result | Failure
        try:
            result = call(part)
        except (FlashDiffusionError, RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                result = Failure("out of memory, even alone")
                limit.lower(len(part) // 2)
            elif isinstance(error, FlashDiffusionError):
                result = Failure(str(error))
            else:
                raise
        if isinstance(result, Failure) and len(part) > 1:
            _release()  # after the handler: its traceback held the tensors of the attempt
            half = len(part) // 2
            todo += [part[half:], part[:half]]
        else:
            yield part, result


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed; torch's CPU allocator has no class of its own for that."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Memory that tensors on `device` can still take."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return int(psutil.virtual_memory().available)


def picture_bytes(call: Callable[[], object]) -> int:
    """What autograd keeps during a call on one picture, parameters aside: nearly all of the memory that it needs."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(kept.values())
