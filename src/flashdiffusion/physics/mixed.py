"""Different operators in one batch."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, Size
from flashdiffusion.physics.foreign import is_linear
from flashdiffusion.physics.windows import Window

Parts = Sequence[tuple[Tensor, BatchedPhysics]]


class Mixed(BatchedPhysics):
    """Operators of several kinds, each for some images of the batch; their measurements must be of one shape.

    It is linear (it has `A_adjoint`) if all of them are.

    Args:
        parts: operators with the rows of the batch that they are for: int64 indices, together 0..B-1, each once. In
            place of one that is mixed itself, its own parts are taken.

    Raises:
        InputError: rows that do not make up a batch.
    """

    name = "mixed"

    def __init__(self, parts: Parts) -> None:
        parts = [(rows.cpu(), part) for rows, part in parts if len(rows)]
        rows = torch.cat([rows for rows, _ in parts]) if parts else torch.empty(0)
        if any(len(own) != len(part) for own, part in parts) or rows.sort().values.tolist() != [*range(len(rows))]:
            raise InputError(f"mixed: rows {rows.tolist()}; expected every row of the batch once, in one of the parts")
        vars(self).update(vars(self._of(parts)))

    @classmethod
    def _of(cls, parts: Parts) -> Self:
        """Build from rows on the CPU that are known to make up a batch."""
        made = cls.__new__(cls)
        made.parts = _flat(parts)
        made.order = torch.cat([rows for rows, _ in made.parts]).argsort()
        made._noise_std = torch.cat([part.noise_std for _, part in made.parts])[made.order]
        made.gives_images = all(part.gives_images for _, part in made.parts)
        made.loses = any(part.loses for _, part in made.parts)
        made._params, made._derived = {}, {}
        return made

    parts: list[tuple[Tensor, BatchedPhysics]]
    order: Tensor

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        raise InputError("a mixture of operators has no parameters of its own; save its parts")

    def A(self, x: Tensor) -> Tensor:
        if len(x) != len(self):
            self.check_batch(x)
        return self._each(lambda part: part.A, x)

    def softened(self, x: Tensor) -> Tensor:
        if len(x) != len(self):
            self.check_batch(x)
        return self._each(lambda part: part.softened, x)

    def discounted(self, residual: Tensor, variance: Tensor) -> Tensor:
        parts = iter(self.parts)  # in the order in which each is called
        return self._each(
            lambda part: lambda own: part.discounted(own, variance[next(parts)[0].to(variance.device)]), residual
        )

    @property
    def A_adjoint(self) -> Callable[[Tensor], Tensor]:
        """Aᵀ of each image's own operator, if all are linear; otherwise there is no such attribute."""
        for _, part in self.parts:
            if not is_linear(part):
                raise AttributeError(f"mixed: {part.name} has no adjoint; expected linear operators")
        return lambda y: self._each(lambda part: part.A_adjoint, y)

    def image(self, y: Tensor) -> Tensor:
        return self._each(lambda part: part.image, y)

    @property
    def halo(self) -> int | None:
        known = [part.halo for _, part in self.parts]
        return None if None in known else max(halo for halo in known if halo is not None)

    @property
    def alignment(self) -> int:
        return math.lcm(*(part.alignment for _, part in self.parts))

    @property
    def pixel_size(self) -> int:
        sizes = {part.pixel_size for _, part in self.parts}
        if len(sizes) > 1:
            raise InputError(f"mixed: pixels of y of sides {sorted(sizes)} in one batch; expected one, in pixels of x")
        return sizes.pop()

    def check_size(self, size: Size) -> None:
        for _, part in self.parts:
            part.check_size(size)

    def window(self, part: Window) -> "Mixed":
        return Mixed._of([(rows, own.window(part)) for rows, own in self.parts])

    def measured(self, y: Tensor) -> Tensor:
        return self._each(lambda part: part.measured, y)

    def _each(self, call: Callable[[Any], Callable[[Tensor], Tensor]], values: Tensor) -> Tensor:
        """Apply each image's own operator to its row."""

        def there(rows: Tensor) -> Tensor:
            return rows.to(values.device, non_blocking=True)

        results = [call(part)(values[there(rows)]) for rows, part in self.parts]
        shapes = {tuple(result.shape[1:]) for result in results}
        if len(shapes) > 1:
            raise InputError(f"mixed: measurements of shapes {sorted(shapes)} in one batch; expected one shape")
        return torch.cat(results)[there(self.order)]

    @property
    def gain(self) -> Tensor | None:
        known = [part.gain for _, part in self.parts]
        if (like := next((gain for gain in known if gain is not None), None)) is None:
            return None
        filled = [like.new_zeros(len(part)) if part.gain is None else part.gain for _, part in self.parts]
        return torch.cat(filled)[self.order.to(like.device, non_blocking=True)]

    @property
    def names(self) -> list[str]:
        named = [name for _, part in self.parts for name in part.names]
        return [named[place] for place in self.order.tolist()]

    def describe(self) -> list[dict[str, float | str]]:
        described = [one for _, part in self.parts for one in part.describe()]
        return [described[place] for place in self.order.tolist()]

    def take(self, rows: Tensor) -> BatchedPhysics:
        """Select rows; if all are of one kind, the result is that kind."""
        rows = rows.cpu()
        taken = []
        for own, part in self.parts:
            where = (rows[:, None] == own[None]).nonzero()  # (row of the result, row of the part)
            if len(where):
                taken.append((where[:, 0], part.take(where[:, 1])))
        return taken[0][1] if len(taken) == 1 else Mixed._of(taken)

    def to(self, device: torch.device | str) -> "Mixed":
        return Mixed._of([(rows, part.to(device)) for rows, part in self.parts])

    @classmethod
    def join(cls, parts: Sequence[BatchedPhysics]) -> BatchedPhysics:
        return concatenate(parts)


def _flat(parts: Parts) -> list[tuple[Tensor, BatchedPhysics]]:
    """Replace each mixed operator by its parts."""
    flat: list[tuple[Tensor, BatchedPhysics]] = []
    for rows, part in parts:
        flat += [(rows[own], inner) for own, inner in part.parts] if isinstance(part, Mixed) else [(rows, part)]
    return flat


def concatenate(parts: Sequence[BatchedPhysics]) -> BatchedPhysics:
    """Join operators in order; if all are of one kind, the result is that kind."""
    ends = torch.tensor([len(part) for part in parts]).cumsum(0).tolist()
    whole = [(torch.arange(end - len(part), end), part) for end, part in zip(ends, parts, strict=True)]
    kinds: dict[Hashable, list[tuple[Tensor, BatchedPhysics]]] = {}
    for rows, part in _flat(whole):
        kinds.setdefault(part.kind, []).append((rows, part))
    joined = [
        (torch.cat([rows for rows, _ in own]), type(own[0][1]).join([part for _, part in own]))
        for own in kinds.values()
    ]
    if len(joined) != 1:
        return Mixed._of(joined)
    ((rows, one),) = joined
    order = rows.argsort()
    return one if torch.equal(order, torch.arange(len(rows))) else one.take(order)
