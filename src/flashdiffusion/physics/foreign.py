"""Physics of other libraries whose parameters differ from picture to picture."""

from typing import Any

import torch
from torch import Tensor

from flashdiffusion.errors import InputError


class WithParams:
    """A physics whose per-picture parameters are passed with every call, as DeepInverse's operators take them.

    DeepInverse stores parameters that a call passes; passing all of them on every call makes that harmless.

    Args:
        physics: an object with `A(x, **params)` and, if it is linear, `A_adjoint(y, **params)`.
        params: tensors with one row per picture.

    Raises:
        InputError: parameters with different numbers of rows.
    """

    def __init__(self, physics: Any, **params: Tensor) -> None:
        if len({len(value) for value in params.values()}) > 1:
            counts = {key: len(value) for key, value in params.items()}
            raise InputError(f"parameters with {counts} rows; expected one row per picture in each")
        self.physics, self.params = physics, params

    @property
    def linear(self) -> bool:
        """Whether the wrapped physics is linear."""
        return is_linear(self.physics)

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


def is_linear(physics: object) -> bool:
    """Whether a physics has an adjoint; one that wraps another says so by its attribute `linear`."""
    return bool(getattr(physics, "linear", hasattr(physics, "A_adjoint")))
