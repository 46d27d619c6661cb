"""Physics of other libraries whose parameters differ from image to image."""

from collections.abc import Hashable, Sequence
from threading import RLock
from typing import Any, TypeGuard

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.types import LinearPhysics

_ONE_AT_A_TIME = RLock()


class WithParams:
    """A physics whose per-image parameters are passed with every call, as DeepInverse's operators take them.

    DeepInverse stores parameters that a call passes: all of them are passed on every call, and calls are made one at a
    time, whichever threads they come from. (A physics that is not wrapped is called from several threads at once.) Of
    noise that the wrapped physics knows for each image (see `noise_std_of`), `take` keeps the rows' own.

    Args:
        physics: an object with `A(x, **params)` and, if it is linear, `A_adjoint(y, **params)`.
        params: tensors with one row per image.

    Raises:
        InputError: parameters with different numbers of rows.
    """

    def __init__(self, physics: Any, **params: Tensor) -> None:
        if len({len(value) for value in params.values()}) > 1:
            counts = {key: len(value) for key, value in params.items()}
            raise InputError(f"parameters with {counts} rows; expected one row per image in each")
        self.physics, self.params = physics, params
        self._rows: Tensor | None = None  # which of the wrapped physics' images these are; None is all

    @property
    def linear(self) -> bool:
        """Whether the wrapped physics is linear."""
        return is_linear(self.physics)

    @property
    def noise_std(self) -> Tensor | None:
        """σ_y of the wrapped physics: one number, or one per image; None if it does not say."""
        std = noise_std_of(self.physics)
        return std if std is None or self._rows is None or len(std) == 1 else std[self._rows.to(std.device)]

    def A(self, x: Tensor) -> Tensor:
        with _ONE_AT_A_TIME:
            return self.physics.A(x, **self.params)

    def A_adjoint(self, y: Tensor) -> Tensor:
        with _ONE_AT_A_TIME:
            return self.physics.A_adjoint(y, **self.params)

    def take(self, rows: Tensor) -> "WithParams":
        params = {key: value[rows.to(value.device)] for key, value in self.params.items()}
        return self._with(self.physics, params, rows if self._rows is None else self._rows[rows.to(self._rows.device)])

    def to(self, device: torch.device | str) -> "WithParams":
        """The same with its parameters on `device`; the physics itself is moved if it can be."""
        physics = self.physics.to(device) if hasattr(self.physics, "to") else self.physics
        return self._with(physics, {key: value.to(device) for key, value in self.params.items()}, self._rows)

    @property
    def kind(self) -> Hashable:
        """Those of equal kind can be joined."""
        return id(self.physics), tuple((key, value.shape[1:]) for key, value in self.params.items()), self._rows is None

    @classmethod
    def join(cls, parts: "Sequence[WithParams]") -> "WithParams":
        """The parameters of several of one kind, in their order."""
        params = {key: torch.cat([part.params[key] for part in parts]) for key in parts[0].params}
        rows = [part._rows for part in parts if part._rows is not None]
        return cls._with(parts[0].physics, params, torch.cat(rows) if rows else None)

    @classmethod
    def _with(cls, physics: Any, params: dict[str, Tensor], rows: Tensor | None) -> "WithParams":
        made = cls(physics, **params)
        made._rows = rows
        return made


def is_linear(physics: object) -> TypeGuard[LinearPhysics]:
    """Whether a physics has an adjoint; one that wraps another says so by its attribute `linear`."""
    return bool(getattr(physics, "linear", hasattr(physics, "A_adjoint")))


def noise_std_of(physics: object) -> Tensor | None:
    """σ_y that a physics says: its `noise_std`, or the `noise_model.sigma` of DeepInverse's; None if it has neither.

    Returns:
        One number, (1,), or one per image.
    """
    std = getattr(physics, "noise_std", None)
    if std is None:
        std = getattr(getattr(physics, "noise_model", None), "sigma", None)
    return None if std is None else torch.as_tensor(std).flatten()
