"""What each training step learns from, read while the step before is computed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import torch
from torch import Tensor

from flashdiffusion.training.draws import step_seed
from flashdiffusion.training.stage import Examples


class Batches:
    """One process's examples of each step; every epoch is a permutation that depends on (seed, epoch) alone.

    Args:
        total: examples of a step, in all processes.
        rows: which of them are this process's.
    """

    def __init__(self, data: Examples, seed: int, total: int, rows: slice) -> None:
        self.data, self.seed, self.total, self.rows = data, seed, total, rows
        self.loader = ThreadPoolExecutor(max_workers=1)
        self._epoch: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.loader.shutdown()

    def after(self, step: int) -> Iterator[Tensor | tuple[Tensor, ...]]:
        """Rows of the examples, of this step and of all that follow."""
        pending = self.loader.submit(self._batch, step)
        while True:
            x = pending.result()
            step += 1
            pending = self.loader.submit(self._batch, step)
            yield x

    def _batch(self, step: int) -> Tensor | tuple[Tensor, ...]:
        size = len(self.data)
        positions = range(step * self.total, (step + 1) * self.total)[self.rows]
        indices = [p // size * size + int(self._permutation(p // size)[p % size]) for p in positions]
        return self.data.rows(indices)

    def _permutation(self, epoch: int) -> Tensor:
        if self._epoch != epoch:
            generator = torch.Generator().manual_seed(step_seed(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self.data), generator=generator)
        return self._order
