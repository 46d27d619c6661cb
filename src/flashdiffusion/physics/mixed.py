"""Different operators in one batch."""

from collections.abc import Hashable, Sequence
from typing import Self

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd
from flashdiffusion.physics.foreign import is_linear


class Mixed(BatchedPhysics):
    """Operators of several kinds, each for some images of the batch; their measurements must be of one shape.

    Args:
        parts: operators with the rows of the batch that they are for: int64 indices, together 0..B-1, each once. In
            place of one that is mixed itself, its own parts are taken.

    Raises:
        InputError: rows that do not make up a batch.
    """

    name = "mixed"

    def __init__(self, parts: Sequence[tuple[Tensor, BatchedPhysics]]) -> None:
        parts = [(rows.cpu(), part) for rows, part in parts if len(rows)]
        rows = torch.cat([rows for rows, _ in parts]) if parts else torch.empty(0)
        if any(len(own) != len(part) for own, part in parts) or rows.sort().values.tolist() != [*range(len(rows))]:
            raise InputError(f"mixed: rows {rows.tolist()}; expected every row of the batch once, in one of the parts")
        self.parts = _flat(parts)
        noise = torch.empty(len(rows), dtype=torch.float64)
        for own, part in self.parts:
            noise[own] = part.noise_std
        super().__init__({"row": torch.arange(len(rows))}, noise)

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        raise InputError("a mixture of operators has no parameters of its own; save its parts")

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        order = torch.cat([rows for rows, _ in self.parts]).argsort().to(x.device)
        measured = [part.A(x[rows.to(x.device)]) for rows, part in self.parts]
        shapes = {tuple(y.shape[1:]) for y in measured}
        if len(shapes) > 1:
            raise InputError(f"mixed: measurements of shapes {sorted(shapes)} in one batch; expected one shape")
        return torch.cat(measured)[order]

    @property
    def linear(self) -> bool:
        """Whether every part is linear."""
        return all(is_linear(part) for _, part in self.parts)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Aᵀy of each image's own operator.

        Raises:
            InputError: one of the operators is not linear.
        """
        images = []
        for rows, part in self.parts:
            if not is_linear(part):
                raise InputError(f"mixed: {part.describe()[0]['physics']} has no adjoint; expected linear operators")
            images.append(part.A_adjoint(y[rows.to(y.device)]))
        order = torch.cat([rows for rows, _ in self.parts]).argsort().to(y.device)
        return torch.cat(images)[order]

    def describe(self) -> list[dict[str, float | str]]:
        described = {int(row): one for rows, part in self.parts for row, one in zip(rows, part.describe(), strict=True)}
        return [described[row] for row in range(len(self))]

    @property
    def gives_images(self) -> bool:
        return all(part.gives_images for _, part in self.parts)

    def image(self, y: Tensor) -> Tensor:
        order = torch.cat([rows for rows, _ in self.parts]).argsort().to(y.device)
        return torch.cat([part.image(y[rows.to(y.device)]) for rows, part in self.parts])[order]

    @property
    def loses(self) -> bool:
        return any(part.loses for _, part in self.parts)

    def measured(self, y: Tensor) -> Tensor:
        order = torch.cat([rows for rows, _ in self.parts]).argsort().to(y.device)
        return torch.cat([part.measured(y[rows.to(y.device)]) for rows, part in self.parts])[order]

    def take(self, rows: Tensor) -> BatchedPhysics:
        """The physics of some rows; rows of one kind alone are that kind."""
        rows = rows.cpu()
        taken = []
        for own, part in self.parts:
            where = (rows[:, None] == own[None]).nonzero()  # (row of the result, row of the part)
            if len(where):
                taken.append((where[:, 0], part.take(where[:, 1])))
        return taken[0][1] if len(taken) == 1 else Mixed(taken)

    def to(self, device: torch.device | str) -> "Mixed":
        return Mixed([(rows, part.to(device)) for rows, part in self.parts])

    @classmethod
    def join(cls, parts: Sequence[BatchedPhysics]) -> BatchedPhysics:
        return concatenate(parts)


def _flat(parts: Sequence[tuple[Tensor, BatchedPhysics]]) -> list[tuple[Tensor, BatchedPhysics]]:
    """The same with the parts of those that are mixed themselves in their place."""
    flat: list[tuple[Tensor, BatchedPhysics]] = []
    for rows, part in parts:
        flat += [(rows[own], inner) for own, inner in part.parts] if isinstance(part, Mixed) else [(rows, part)]
    return flat


def concatenate(parts: Sequence[BatchedPhysics]) -> BatchedPhysics:
    """One physics for the images of several, in their order; of one kind if all of them are."""
    firsts = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0)
    whole = [(torch.arange(int(firsts[p]), int(firsts[p + 1])), part) for p, part in enumerate(parts)]
    kinds: dict[Hashable, list[tuple[Tensor, BatchedPhysics]]] = {}
    for rows, part in _flat(whole):
        kinds.setdefault(part.kind, []).append((rows, part))
    joined = [
        (torch.cat([rows for rows, _ in own]), type(own[0][1]).join([part for _, part in own]))
        for own in kinds.values()
    ]
    if len(joined) != 1:
        return Mixed(joined)
    ((rows, one),) = joined
    order = rows.argsort()
    return one if torch.equal(order, torch.arange(len(rows))) else one.take(order)
