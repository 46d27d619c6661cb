"""Arithmetic of images: the first real call of each kind is counted, and stands for the others."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from flashdiffusion.metrics import count_gflop
from flashdiffusion.metrics.flops import FlopCounter
from flashdiffusion.physics import BatchedPhysics
from flashdiffusion.solvers import Problem, Solver, StepResult
from flashdiffusion.types import Physics

Result = TypeVar("Result")


class Costs:
    """GFLOP of images by kind of call; calls of one kind cost each of their images the same, inner iterations aside."""

    def __init__(self) -> None:
        self._fixed: dict[Hashable, float] = {}
        self._each: dict[Hashable, float] = {}  # of an inner iteration

    def known(self, kind: Hashable) -> bool:
        """Whether a call of this kind was counted."""
        return kind in self._fixed

    def call(
        self,
        kinds: Sequence[Hashable],
        function: Callable[[], Result],
        inner: Callable[[Result], Tensor | None] = lambda result: None,
        each: Callable[[], float] = lambda: 0.0,
    ) -> tuple[Result, list[float]]:
        """Call, and give the GFLOP of each image too.

        Args:
            kinds: one for each image; all are the same unless all are known.
            inner: how many inner iterations each image took, int64 (B,).
            each: GFLOP of one; asked once.
        """
        first = kinds[0]
        if first in self._fixed:
            result, counted = function(), None
        else:
            with FlopCounter() as counter:
                result = function()
            counted = counter.gflop / len(kinds)
        iterations = inner(result)
        counts = [0] * len(kinds) if iterations is None else iterations.tolist()
        if any(counts) and any(kind not in self._each for kind in kinds):
            self._each |= dict.fromkeys(kinds, each())
        if counted is not None:
            self._fixed[first] = counted - self._each.get(first, 0.0) * sum(counts) / len(counts)
        return result, self._spent(kinds, counts)

    def of_each(
        self,
        kinds: Sequence[Hashable],
        alone: Callable[[int], float],
        counts: Sequence[int],
        each: Callable[[], float],
    ) -> list[float]:
        """GFLOP of images of any kinds: the first of a kind is counted by itself.

        Args:
            alone: GFLOP of a row, without the others.
            counts: how many inner iterations each image took.
            each: GFLOP of one; asked once.
        """
        if any(counts) and any(kind not in self._each for kind in kinds):
            self._each |= dict.fromkeys(kinds, each())
        for row, (kind, count) in enumerate(zip(kinds, counts, strict=True)):
            if kind not in self._fixed:
                self._fixed[kind] = alone(row) - self._each.get(kind, 0.0) * count
        return self._spent(kinds, counts)

    def _spent(self, kinds: Sequence[Hashable], counts: Sequence[int]) -> list[float]:
        """GFLOP of images of known kinds."""
        of_each = zip(kinds, counts, strict=True)
        return [self._fixed[kind] + self._each.get(kind, 0.0) * count for kind, count in of_each]

    def step(
        self, kinds: Sequence[Hashable], solver: Solver, z: Tensor, k: Tensor, problem: Problem, noise: Tensor
    ) -> tuple[StepResult, list[float]]:
        """A solver's step, and the GFLOP of each image."""
        return self.call(
            kinds,
            lambda: solver.step(z, k, problem, noise),
            lambda result: result.iterations,
            lambda: _iteration(solver, z[:1], k[:1], problem.take(torch.tensor([0])), noise[:1]),
        )


def _iteration(solver: Any, z: Tensor, k: Tensor, problem: Problem, noise: Tensor) -> float:
    """GFLOP of an inner iteration: by how much a step with two is more than one with one."""
    far = replace(problem, y=problem.y + 10)  # so that the first iteration is not the last
    once, twice = (count_gflop(partial(replace(solver, iterations=n).step, z, k, far, noise)) for n in (1, 2))
    return twice - once


def operators_of(physics: Physics, count: int) -> list[Hashable]:
    """What the arithmetic depends on, beside the size, for each of the `count` images: its operators."""
    if isinstance(physics, BatchedPhysics):
        return [str(described["physics"]) for described in physics.describe()]
    one = id(getattr(physics, "physics", physics))
    return [one] * count
