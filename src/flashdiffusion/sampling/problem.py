"""What is to be solved: measurements with their physics; the only place that takes rows of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.types import Physics, RowwisePhysics


@dataclass(frozen=True)
class Problem:
    """Measurements y (B, ...) on the [0, 1] scale and the physics that made them.

    A physics without `take` is taken to be the same for every picture.
    """

    y: Tensor
    physics: Physics

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor) -> "Problem":
        """Some rows (int64 indices) of the batch."""
        physics = self.physics.take(rows) if isinstance(self.physics, RowwisePhysics) else self.physics
        return Problem(self.y[rows], physics)

    def loss(self, x: Tensor) -> Tensor:
        """‖r‖₂ of each picture, (B,), with r = A(x) - y taken on the [-1, 1] scale, as published step sizes are.

        Raises:
            InputError: the physics gives measurements of another shape than y.
        """
        measured = self.physics.A(x)
        if measured.shape != self.y.shape:
            raise InputError(
                f"physics gives measurements of shape {tuple(measured.shape)}; y has {tuple(self.y.shape)}"
            )
        return torch.linalg.vector_norm(2 * (measured - self.y).flatten(1), dim=1)
