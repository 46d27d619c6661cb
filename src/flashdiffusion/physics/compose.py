"""Two degradations, one after the other."""

from collections.abc import Hashable, Sequence
from typing import Self, cast

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedLinearPhysics, BatchedPhysics, NoiseStd
from flashdiffusion.physics.mixed import concatenate


class Compose(BatchedPhysics):
    """y = second.A(first.A(x)), with the noise of the second alone; linear if both are.

    Its parameters are those of both, named `first.NAME` and `second.NAME`, and `kinds`: the names of the two
    operators, "gaussian-blur+jpeg", as bytes (B, n), from which a measurement file is read back. An operator of two
    can be one of the two again.

    Args:
        first: what happens to the image first; its noise is left out.
        second: what happens then.

    Raises:
        InputError: operators for different numbers of images.
    """

    name = "composed"

    def __new__(cls, first: BatchedPhysics | None = None, second: BatchedPhysics | None = None) -> "Compose":
        both = isinstance(first, BatchedLinearPhysics) and isinstance(second, BatchedLinearPhysics)
        return super().__new__(LinearCompose if both else cls)

    def __init__(self, first: BatchedPhysics, second: BatchedPhysics) -> None:
        if len(first) != len(second):
            raise InputError(f"operators for {len(first)} and {len(second)} images; expected equal numbers")
        self.first, self.second = first, second
        kinds = torch.tensor(list(f"{first.name}+{second.name}".encode()), dtype=torch.uint8)
        params = {"kinds": kinds.expand(len(first), -1).clone()}
        for place, part in (("first", first), ("second", second)):
            params |= {f"{place}.{key}": value for key, value in part.params.items()}
        super().__init__(params, second.noise_std)

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        from flashdiffusion.physics import OPERATORS  # the registry holds this class too

        if "kinds" not in params or params["kinds"].ndim != 2 or len(params["kinds"]) == 0:
            raise InputError(f"{cls.name} has the parameter kinds (B, n); got {sorted(params)}")
        first, _, second = bytes(params["kinds"][0].tolist()).decode(errors="replace").partition("+")
        for kind in (first, second):
            if kind not in OPERATORS:
                raise InputError(f"{cls.name} of {kind!r}; this library knows {', '.join(OPERATORS)}")

        def own(place: str) -> dict[str, Tensor]:
            prefix = f"{place}."
            return {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}

        return cls(
            OPERATORS[first].from_params(own("first"), 0.0), OPERATORS[second].from_params(own("second"), noise_std)
        )

    def describe(self) -> list[dict[str, float | str]]:
        """Parameters of both; one of the second that the first has too is named `second.NAME`."""
        described = []
        for one, two in zip(self.first.describe(), self.second.describe(), strict=True):
            about: dict[str, float | str] = {"physics": f"{one['physics']}+{two['physics']}"}
            about |= {key: value for key, value in one.items() if key != "physics"}
            about |= {f"second.{k}" if k in about else k: value for k, value in two.items() if k != "physics"}
            described.append(about)
        return described

    def A(self, x: Tensor) -> Tensor:
        return self.second.A(self.first.A(x))

    @property
    def gives_images(self) -> bool:
        return self.first.gives_images and self.second.gives_images

    def image(self, y: Tensor) -> Tensor:
        return self.first.image(self.second.image(y))

    @property
    def loses(self) -> bool:
        return self.second.loses

    def measured(self, y: Tensor) -> Tensor:
        return self.second.measured(y)

    def take(self, rows: Tensor) -> "Compose":
        return type(self)(self.first.take(rows), self.second.take(rows))

    def to(self, device: torch.device | str) -> "Compose":
        return type(self)(self.first.to(device), self.second.to(device))

    @property
    def kind(self) -> Hashable:
        return Compose, self.first.kind, self.second.kind

    @classmethod
    def join(cls, parts: Sequence[BatchedPhysics]) -> BatchedPhysics:
        own = cast(Sequence[Compose], parts)
        return Compose(concatenate([part.first for part in own]), concatenate([part.second for part in own]))


class LinearCompose(Compose, BatchedLinearPhysics):
    """A composition of two linear operators: `Compose` of two such is one."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        assert isinstance(self.first, BatchedLinearPhysics) and isinstance(self.second, BatchedLinearPhysics)
        return self.first.A_adjoint(self.second.A_adjoint(y))
