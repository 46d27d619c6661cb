"""Two degradations, one after the other."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, Size
from flashdiffusion.physics.blur import GaussianBlur
from flashdiffusion.physics.foreign import Chain, is_linear
from flashdiffusion.physics.jpeg import JPEG
from flashdiffusion.physics.mixed import concatenate
from flashdiffusion.physics.registry import PHYSICS, register_physics
from flashdiffusion.physics.tasks import Task
from flashdiffusion.physics.windows import Window


class Compose(BatchedPhysics):
    """y = second.A(first.A(x)), with the noise of the second alone; linear (it has `A_adjoint`) if both are.

    Its parameters are those of both, named `first.NAME` and `second.NAME`, and `kinds`: the names of the two
    operators, "gaussian-blur+jpeg", as bytes (B, n), so that a measurement file can be read back. Compositions nest.
    If one of the two is another library's, the result is a `Chain`.

    Args:
        first: what happens to the image first; its noise is left out.
        second: what happens then.

    Raises:
        InputError: operators for different numbers of images, or camera noise as the first.
    """

    name = "composed"

    def __new__(cls, first: Any = None, second: Any = None) -> Any:
        if all(part is None or isinstance(part, BatchedPhysics) for part in (first, second)):
            return super().__new__(cls)
        return Chain(first, second)

    def __init__(self, first: BatchedPhysics, second: BatchedPhysics) -> None:
        count = max(len(first), len(second))
        if {len(first), len(second)} - {1, count}:
            raise InputError(f"operators for {len(first)} and {len(second)} images; expected equal numbers")
        if first.gain is not None:
            raise InputError(
                f"{first.name} counts photons, and of a composition the last has the noise; expected it as the last"
            )
        self.first, self.second = first.expand(count), second.expand(count)
        self.gives_images, self.loses = first.gives_images and second.gives_images, second.loses

    @property
    def noise_std(self) -> Tensor:
        return self.second.noise_std

    @property
    def gain(self) -> Tensor | None:
        return self.second.gain

    @property
    def names(self) -> list[str]:
        return [f"{first}+{second}" for first, second in zip(self.first.names, self.second.names, strict=True)]

    @property
    def params(self) -> dict[str, Tensor]:
        kinds = torch.tensor(list(f"{self.first.name}+{self.second.name}".encode()), dtype=torch.uint8)
        params = {"kinds": kinds.expand(len(self), -1).clone()}
        for place, part in (("first", self.first), ("second", self.second)):
            params |= {f"{place}.{key}": value for key, value in part.params.items()}
        return params

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        if "kinds" not in params or params["kinds"].ndim != 2 or len(params["kinds"]) == 0:
            raise InputError(f"{cls.name} has the parameter kinds (B, n); got {sorted(params)}")
        first, _, second = bytes(params["kinds"][0].tolist()).decode(errors="replace").partition("+")
        for kind in (first, second):
            if kind not in PHYSICS:
                raise InputError(f"{cls.name} of {kind!r}; this library knows those of docs/degradations.md")

        def part(place: str, kind: str, noise: NoiseStd) -> BatchedPhysics:
            own = {key.removeprefix(place): value for key, value in params.items() if key.startswith(place)}
            return PHYSICS[kind].cls.from_params(own, noise)

        return cls(part("first.", first, 0.0), part("second.", second, noise_std))

    def describe(self) -> list[dict[str, float | str]]:
        """Describe both; a parameter of the second that the first also has is named `second.NAME`."""
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
    def rounds(self) -> bool:  # type: ignore[override]
        return self.first.rounds or self.second.rounds

    def softened(self, x: Tensor) -> Tensor:
        return self.second.softened(self.first.softened(x))

    def discounted(self, residual: Tensor, variance: Tensor) -> Tensor:
        residual = self.second.discounted(residual, variance)
        if self.pixel_size > 1 or not self.gives_images:
            return residual
        # As if it came last: what follows, such as a blur, leaves less of the errors of rounding.
        return self.first.discounted(residual, variance)

    @property
    def A_adjoint(self) -> Callable[[Tensor], Tensor]:
        """Aᵀ, if both operators are linear; otherwise there is no such attribute."""
        first, second = self.first, self.second
        if not (is_linear(first) and is_linear(second)):
            raise AttributeError(f"{first.name}+{second.name} is not linear; expected two linear operators")
        outer, inner = first.A_adjoint, second.A_adjoint
        return lambda y: outer(inner(y))

    def image(self, y: Tensor) -> Tensor:
        return self.first.image(self.second.image(y))

    @property
    def halo(self) -> int | None:
        first, second = self.first.halo, self.second.halo
        return None if first is None or second is None else first + self.first.pixel_size * second

    @property
    def alignment(self) -> int:
        return math.lcm(self.first.alignment, self.first.pixel_size * self.second.alignment)

    @property
    def pixel_size(self) -> int:
        return self.first.pixel_size * self.second.pixel_size

    def check_size(self, size: Size) -> None:
        self.first.check_size(size)
        self.second.check_size((size[0] // self.first.pixel_size, size[1] // self.first.pixel_size))

    def window(self, part: Window) -> "Compose":
        between = part.in_units(self.first.pixel_size)
        return self._with(first=self.first.window(part), second=self.second.window(between))

    def measured(self, y: Tensor) -> Tensor:
        return self.second.measured(y)

    def take(self, rows: Tensor) -> "Compose":
        return self._each(lambda part: part.take(rows))

    def to(self, device: torch.device | str) -> "Compose":
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[BatchedPhysics], Any]) -> "Compose":
        return self._with(first=change(self.first), second=change(self.second))

    @property
    def kind(self) -> Hashable:
        return Compose, self.first.kind, self.second.kind

    @classmethod
    def join(cls, parts: Sequence[BatchedPhysics]) -> BatchedPhysics:
        own = cast(Sequence[Compose], parts)
        first, second = ([getattr(part, place) for part in own] for place in ("first", "second"))
        return own[0]._with(first=concatenate(first), second=concatenate(second))


def _blur_and_jpeg(std: Tensor, generator: torch.Generator, noise_std: NoiseStd) -> Compose:
    low, high = 20.0, 90.0  # of the quality
    unit = torch.rand(len(std), generator=generator, device=generator.device).to(std.device)
    return Compose(GaussianBlur(std), JPEG(low + (high - low) * unit, noise_std))


register_physics(Compose, tasks=[Task("gaussian-blur+jpeg", "std", 0.0, 3.0, _blur_and_jpeg, ordering=(0.0, 3.0))])
