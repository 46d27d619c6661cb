"""What our operators share: per-picture parameters, row selection, Gaussian noise, saving."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from flashdiffusion.errors import InputError


class BatchedPhysics(ABC):
    """A linear degradation whose parameters are tensors with one row per picture.

    `params` holds them all, so that taking rows, moving to a device and saving need no code per operator.
    DeepInverse's protocol: `A`, `A_adjoint`, and `physics(x) = A(x) + noise`.

    Args:
        noise_std: σ_y, standard deviation of the additive Gaussian noise on the [0, 1] scale.

    Raises:
        InputError: noise_std is negative or not finite.
    """

    name: ClassVar[str]

    def __init__(self, params: dict[str, Tensor], noise_std: float) -> None:
        if not 0 <= noise_std < float("inf"):
            raise InputError(f"noise std is {noise_std}; expected a finite number >= 0")
        self.params = params
        self.noise_std = float(noise_std)

    def __len__(self) -> int:
        """Number of pictures that the parameters are for."""
        return len(next(iter(self.params.values())))

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """The noise-free measurement of x (B, C, H, W); raises InputError for another number of pictures."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """The exact adjoint of `A`: y (B, C, H, W) -> (B, C, H, W)."""

    @abstractmethod
    def describe(self) -> list[dict[str, float | str]]:
        """The parameters of each picture, for records."""

    @classmethod
    @abstractmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: float) -> Self:
        """The inverse of reading `params`: rebuild from saved tensors (raises InputError if they do not fit)."""

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A(x) + n, n ~ N(0, noise_std² I).

        The noise is drawn in float32 on the generator's device (the CPU without one), so that a seed means the same
        noise whatever device and precision x has.
        """
        y = self.A(x)
        device = generator.device if generator is not None else "cpu"
        return y + self.noise_std * torch.randn(y.shape, generator=generator, device=device).to(y)

    def take(self, rows: Tensor) -> Self:
        """The physics of some rows (int64 indices) of the batch."""
        return self.from_params(
            {key: value[rows.to(value.device)] for key, value in self.params.items()}, self.noise_std
        )

    def to(self, device: torch.device | str) -> Self:
        """The same physics with its parameters on `device`."""
        return self.from_params({key: value.to(device) for key, value in self.params.items()}, self.noise_std)

    def check_batch(self, x: Tensor) -> None:
        """Raise InputError unless x is (len(self), C, H, W)."""
        if x.ndim != 4 or len(x) != len(self):
            raise InputError(
                f"{self.name}: pictures of shape {tuple(x.shape)}; expected ({len(self)}, C, H, W), one picture "
                "per row of parameters"
            )


def concatenate(parts: Sequence[BatchedPhysics]) -> BatchedPhysics:
    """One physics for the pictures of several of the same kind and noise."""
    first = parts[0]
    for part in parts:
        if type(part) is not type(first) or part.noise_std != first.noise_std:
            raise InputError("operators of different kinds or noise in one batch; expected one kind")
    params = {key: torch.cat([part.params[key] for part in parts]) for key in first.params}
    return first.from_params(params, first.noise_std)
