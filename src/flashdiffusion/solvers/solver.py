"""What the engine asks of a solver: one reverse step, no loop, no randomness of its own."""

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.schedule import Grid
from flashdiffusion.solvers.problem import Problem


@dataclass(frozen=True)
class StepResult:
    """z: latents at the next time; z0: posterior mean at this one. Both (B, c, h, w).

    iterations: of an inner problem that the step solved, for each image, int64 (B,); None if it has none. A solver
    with inner problems is a dataclass whose field `iterations` bounds them.
    image: finished images (B, 3, H, W) of rows that this step brings to k = 0, so that z is not decoded; rows that it
    does not are anything. None if z says what they are.
    """

    z: Tensor
    z0: Tensor
    iterations: Tensor | None = None
    image: Tensor | None = None


class Solver(Protocol):
    """The rule that keeps z consistent with y, for a batch whose rows stand at times of their own."""

    @property
    def grid(self) -> Grid:
        """The times this solver visits."""
        ...

    @property
    def name(self) -> str:
        """What it is called in records; steps of one name cost the same."""
        ...

    @property
    def draws(self) -> int:
        """Noise tensors that a step needs."""
        ...

    def check(self, problem: Problem) -> None:
        """Raise InputError if it cannot serve this problem."""
        ...

    def cost(self, k: Tensor) -> Tensor:
        """Rate the cost of a step from each of k (B,); the engine steps rows of equal cost together.

        Steps of equal cost do the same arithmetic, inner iterations aside.
        """
        ...

    def step(self, z: Tensor, k: Tensor, problem: Problem, noise: Tensor) -> StepResult:
        """Step from grid position k to k - 1; rows do not influence each other.

        Args:
            k: int64 (B,) on the CPU, where the engine knows it: nothing then waits for the device.
            noise: (B, draws, c, h, w).
        """
        ...


def check_weight(name: str, value: float) -> None:
    """Raise InputError unless a weight or step size is a finite number >= 0."""
    if not 0 <= value < math.inf:
        raise InputError(f"{name} is {value}; expected a finite number >= 0")
