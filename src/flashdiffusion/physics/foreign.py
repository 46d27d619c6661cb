"""Physics of other libraries whose parameters differ from picture to picture."""

from typing import Any

import torch
from torch import Tensor


class WithParams:
    """A physics whose per-picture parameters are passed with every call, as DeepInverse's operators take them.

    DeepInverse stores parameters that a call passes; passing all of them on every call makes that harmless.

    Args:
        physics: an object with `A(x, **params)` and, if it is linear, `A_adjoint(y, **params)`.
        params: tensors with one row per picture.
    """

    def __init__(self, physics: Any, **params: Tensor) -> None:
        self.physics, self.params = physics, params

    def A(self, x: Tensor) -> Tensor:
        return self.physics.A(x, **self.params)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.physics.A_adjoint(y, **self.params)

    def take(self, rows: Tensor) -> "WithParams":
        return WithParams(self.physics, **{key: value[rows.to(value.device)] for key, value in self.params.items()})

    def to(self, device: torch.device | str) -> "WithParams":
        """The same with its parameters on `device`; the physics itself is moved if it can be."""
        physics = self.physics.to(device) if hasattr(self.physics, "to") else self.physics
        return WithParams(physics, **{key: value.to(device) for key, value in self.params.items()})
