"""Protocols; everything above speaks in these."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Physics(Protocol):
    """A degradation y = A(x) + n, as in DeepInverse: any of its Physics objects is one.

    Images are float (B, C, H, W) in [0, 1]; rows of a batch are independent of each other.
    """

    def A(self, x: Tensor) -> Tensor:
        """The noise-free measurement, differentiable in x."""
        ...


@runtime_checkable
class LinearPhysics(Physics, Protocol):
    """A degradation with an exact adjoint."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y: <A x, y> = <x, Aᵀ y> for all x, y."""
        ...


@runtime_checkable
class RowwisePhysics(Physics, Protocol):
    """A degradation with parameters per image, of which rows can be taken."""

    def take(self, rows: Tensor) -> Physics:
        """The physics of some rows (int64 indices) of the batch."""
        ...
