"""Physics of other libraries: parameters per image, lists of measurements, compositions with ours."""

from collections.abc import Callable, Hashable, Sequence, Sized
from threading import RLock
from typing import Any, TypeGuard

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics
from flashdiffusion.types import LinearPhysics, RowwisePhysics

_ONE_AT_A_TIME = RLock()


class WithParams:
    """A physics whose per-image parameters are passed with every call, as DeepInverse's operators take them.

    DeepInverse stores parameters that a call passes: all of them are passed on every call, and calls are made one at a
    time, whichever threads they come from. (A physics that is not wrapped is called from several threads at once.) Of
    noise that the wrapped physics knows for each image (see `noise_std_of`), `take` keeps the rows' own.
    Measurements that are lists of tensors, as DeepInverse's stacked operators give, become one tensor (`flattened`).

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
        self.name = str(getattr(physics, "name", type(physics).__name__))
        self._rows: Tensor | None = None  # which of the wrapped physics' images these are; None is all
        self._shapes: list[torch.Size] = []  # of one image's measurements, where they are a list

    @property
    def linear(self) -> bool:
        """Whether the wrapped physics is linear."""
        return is_linear(self.physics)

    @property
    def noise_std(self) -> Tensor | None:
        """σ_y of the wrapped physics: one number, or one per image; None if it does not say."""
        std = _noise_std_of_stack(self.physics, self._shapes) if self._shapes else noise_std_of(self.physics)
        return std if std is None or self._rows is None or len(std) == 1 else std[self._rows.to(std.device)]

    def A(self, x: Tensor) -> Tensor:
        with _ONE_AT_A_TIME:
            y = self.physics.A(x, **self.params)
        return torch.cat([part.flatten(1) for part in y], dim=1) if self._shapes else y

    def A_adjoint(self, y: Any) -> Tensor:
        if self._shapes:
            parts = y.split([shape.numel() for shape in self._shapes], dim=1)
            y = [part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True)]
        with _ONE_AT_A_TIME:
            return self.physics.A_adjoint(y, **self.params)

    def take(self, rows: Tensor) -> "WithParams":
        params = {key: value[rows.to(value.device)] for key, value in self.params.items()}
        return self._with(params, rows if self._rows is None else self._rows[rows.to(self._rows.device)])

    def to(self, device: torch.device | str) -> "WithParams":
        """The same with its parameters on `device`; the physics itself is moved if it can be."""
        moved = self._with({key: value.to(device) for key, value in self.params.items()}, self._rows)
        moved.physics = self.physics.to(device) if hasattr(self.physics, "to") else self.physics
        return moved

    @property
    def kind(self) -> Hashable:
        """Those of equal kind can be joined."""
        return id(self.physics), tuple((key, value.shape[1:]) for key, value in self.params.items()), self._rows is None

    @classmethod
    def join(cls, parts: "Sequence[WithParams]") -> "WithParams":
        """The parameters of several of one kind, in their order."""
        params = {key: torch.cat([part.params[key] for part in parts]) for key in parts[0].params}
        rows = [part._rows for part in parts if part._rows is not None]
        return parts[0]._with(params, torch.cat(rows) if rows else None)

    def _with(self, params: dict[str, Tensor], rows: Tensor | None) -> "WithParams":
        made = WithParams(self.physics, **params)
        made._rows, made._shapes = rows, self._shapes
        return made


class Chain:
    """y = second.A(first.A(x)) where at least one of the two is another library's; the noise is the second's.

    `Compose` of two such operators is one.
    """

    def __init__(self, first: Any, second: Any) -> None:
        parts: list[Any] = [p if isinstance(p, RowwisePhysics) else WithParams(p) for p in (first, second)]
        self.first, self.second = parts
        self.name = "+".join(str(getattr(part, "name", type(part).__name__)) for part in parts)

    @property
    def linear(self) -> bool:
        return is_linear(self.first) and is_linear(self.second)

    @property
    def noise_std(self) -> Tensor | None:
        """σ_y of the second, if it says it."""
        return noise_std_of(self.second)

    @property
    def gain(self) -> Tensor | None:
        """See `BatchedPhysics.gain`; None of another library's second."""
        return self.second.gain if isinstance(self.second, BatchedPhysics) else None

    def __call__(self, x: Tensor) -> Tensor:
        measured = self.first.A(x)
        if isinstance(self.second, WithParams):
            return self.second.physics(measured, **self.second.params)  # a library's own noise, whatever it is
        return self.second(measured)

    def A(self, x: Tensor) -> Tensor:
        return self.second.A(self.first.A(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.first.A_adjoint(self.second.A_adjoint(y))

    def take(self, rows: Tensor) -> "Chain":
        return self._each(lambda part: part if isinstance(part, Sized) and len(part) == 1 else part.take(rows))

    def to(self, device: torch.device | str) -> "Chain":
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[Any], Any]) -> "Chain":
        return Chain(change(self.first), change(self.second))


def flattened(y: Any, physics: Any) -> tuple[Any, Any]:
    """Join measurements that are a list of tensors (B, ...), as in DeepInverse's TensorList, to one tensor (B, n).

    Returns:
        It, and the physics that gives such; any other measurements and their physics as they are.
    """
    parts = getattr(y, "x", None)
    if isinstance(y, Tensor) or not isinstance(parts, list):
        return y, physics
    wrapped = physics.take(torch.arange(len(parts[0]))) if isinstance(physics, WithParams) else WithParams(physics)
    wrapped._shapes = [part.shape[1:] for part in parts]
    return torch.cat([part.flatten(1) for part in parts], dim=1), wrapped


def is_linear(physics: object) -> TypeGuard[LinearPhysics]:
    """Whether a physics has an adjoint; one that wraps another says so by its attribute `linear`.

    Of DeepInverse's only a `LinearPhysics` is: others call something else A_adjoint.
    """
    bases = type(physics).__mro__
    if any(base.__module__.startswith("deepinv.") for base in bases):
        return any(base.__name__ == "LinearPhysics" for base in bases)
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


def _noise_std_of_stack(physics: Any, shapes: Sequence[torch.Size]) -> Tensor | None:
    """Give σ_y of stacked operators: the root of the mean variance of all entries; one that does not say has none."""
    known = [noise_std_of(part) for part in getattr(physics, "physics_list", [])]
    if len(known) != len(shapes) or all(std is None for std in known):
        return None
    of_each = [shape.numel() * std.square() for std, shape in zip(known, shapes, strict=True) if std is not None]
    return (sum(of_each, torch.zeros(())) / sum(shape.numel() for shape in shapes)).sqrt()
