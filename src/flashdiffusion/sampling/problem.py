"""What is to be solved: measurements with their physics; the only place that takes rows of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics import BatchedPhysics, is_linear
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

    @property
    def name(self) -> str:
        """Name of the physics, for messages."""
        return str(getattr(self.physics, "name", type(self.physics).__name__))

    @property
    def linear(self) -> bool:
        """Whether the physics has an adjoint."""
        return is_linear(self.physics)

    @property
    def noise_variance(self) -> Tensor:
        """σ_y² of each picture on the [0, 1] scale, (B,); 0 where the physics does not say (`noise_std`)."""
        std = getattr(self.physics, "noise_std", 0.0)
        return torch.as_tensor(std, dtype=self.y.dtype, device=self.y.device).square().expand(len(self))

    def to(self, device: torch.device | str) -> "Problem":
        """Measurements, and the physics if it can be moved, on `device`."""
        physics = self.physics.to(device) if hasattr(self.physics, "to") else self.physics
        return Problem(self.y.to(device), physics)

    def take(self, rows: Tensor) -> "Problem":
        """Some rows (int64 indices) of the batch."""
        physics = self.physics.take(rows) if isinstance(self.physics, RowwisePhysics) else self.physics
        return Problem(self.y[rows], physics)

    def picture(self) -> Tensor:
        """The measurements as pictures (B, 3, H, W) of the size to restore, for networks that take pictures.

        Those of our operators know how; of others, measurements of three channels are pictures already, and else
        Aᵀy is taken.

        Raises:
            InputError: neither is a picture.
        """
        if isinstance(self.physics, BatchedPhysics):
            picture = self.physics.picture(self.y)
        elif self.y.ndim == 4 and self.y.shape[1] == 3:
            picture = self.y
        elif self.linear:
            picture = self.adjoint(self.y)
        else:
            picture = self.y
        if picture.ndim != 4 or picture.shape[1] != 3 or len(picture) == 0:
            raise InputError(f"measurements of shape {tuple(self.y.shape)}; expected (B, 3, H, W) with B >= 1")
        return picture

    def measure(self, x: Tensor) -> Tensor:
        """A(x).

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
                f"physics {self.name} gives measurements of shape {tuple(measured.shape)}; y has {tuple(self.y.shape)}"
            )
        return measured

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀy.

        Raises:
            InputError: the physics is not linear.
        """
        if not self.linear:
            raise InputError(f"physics {self.name} has no A_adjoint; expected a linear one")
        return self.physics.A_adjoint(y)  # type: ignore[attr-defined]

    def residual(self, x: Tensor) -> Tensor:
        """r = A(x) - y on the [-1, 1] scale, as published step sizes are: twice that of the [0, 1] scale."""
        return 2 * (self.measure(x) - self.y)

    def loss(self, x: Tensor) -> Tensor:
        """‖r‖₂ of each picture, (B,)."""
        return norm(self.residual(x))


def norm(rows: Tensor) -> Tensor:
    """‖·‖₂ of each row, (B,)."""
    return torch.linalg.vector_norm(rows.flatten(1), dim=1)
