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

    def to(self, device: torch.device | str) -> "Problem":
        """Measurements, and the physics if it can be moved, on `device`."""
        physics = self.physics.to(device) if hasattr(self.physics, "to") else self.physics
        return Problem(self.y.to(device), physics)

    def take(self, rows: Tensor) -> "Problem":
        """Some rows (int64 indices) of the batch."""
        physics = self.physics.take(rows) if isinstance(self.physics, RowwisePhysics) else self.physics
        return Problem(self.y[rows], physics)

    def loss(self, x: Tensor) -> Tensor:
        """‖r‖₂ of each picture, (B,), with r = A(x) - y taken on the [-1, 1] scale, as published step sizes are.

        Raises:
            InputError: the physics cannot take these rows, or gives measurements of another shape than y.
        """
        try:
            measured = self.physics.A(x)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise InputError(
                f"physics failed on {len(self)} of the pictures: {error}; pass parameters that differ from picture to "
                "picture through flashdiffusion.WithParams"
            ) from error
        if measured.shape != self.y.shape:
            raise InputError(
                f"physics gives measurements of shape {tuple(measured.shape)}; y has {tuple(self.y.shape)}"
            )
        return torch.linalg.vector_norm(2 * (measured - self.y).flatten(1), dim=1)
