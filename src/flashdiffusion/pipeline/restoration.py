"""Measurements in, restored pictures out."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.methods import Settings
from flashdiffusion.types import Physics


@dataclass(frozen=True)
class Batch:
    """Measurements y (B, ...) on the [0, 1] scale that came together: their names and their physics.

    settings: hyperparameters for them; None leaves the choice to the pipeline.

    Raises:
        InputError: another number of names, or of the physics' parameters, than measurements.
    """

    ids: Sequence[str]
    y: Tensor
    physics: Physics
    settings: Settings | None = None

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.y):
            raise InputError(f"{len(self.ids)} ids for {len(self.y)} pictures; expected one per picture")
        check_length(self.y, self.physics)


def check_length(y: Tensor, physics: Physics | None) -> None:
    """Raise InputError if the physics' parameters are for another number of pictures."""
    if isinstance(physics, Sized) and len(physics) != len(y):
        raise InputError(f"physics has parameters for {len(physics)} pictures; y has {len(y)}")


@dataclass(frozen=True)
class Restored:
    """One picture as it leaves a stream.

    index: its place among all that went in. image: float32 (3, H, W) in [0, 1] on the CPU, None if there is none.
    severity: σ̂² in scaled latent units, None if no severity encoder was used. start: position of the start on the
    solver's grid. nfe: denoiser evaluations run. gflop: arithmetic spent. seconds: its share of the wall-clock time of
    the calls it took part in. failed: why there is no image; its arithmetic is not counted.
    """

    index: int
    id: str
    image: Tensor | None = None
    severity: float | None = None
    start: int = 0
    nfe: int = 0
    gflop: float = 0.0
    seconds: float = 0.0
    failed: str | None = None

    def row(self) -> dict[str, Any]:
        """What it cost, as plain numbers."""
        return {name: getattr(self, name) for name in ("severity", "start", "nfe", "gflop", "seconds")}


@dataclass(frozen=True)
class Restoration:
    """Restored pictures; every field is on the CPU and has one row per picture.

    images: float32 (B, 3, H, W) in [0, 1]; NaN where there is none. severity: σ̂² in scaled latent units, float32 (B,),
    None if no severity encoder was used. start: position of the start on the solver's grid, int64 (B,). nfe: denoiser
    evaluations run, int64 (B,). gflop: arithmetic spent, float32 (B,). seconds: the picture's share of the wall-clock
    time of the calls it took part in, float32 (B,). failed: why a picture has no image, by its row.
    """

    images: Tensor
    severity: Tensor | None
    start: Tensor
    nfe: Tensor
    gflop: Tensor
    seconds: Tensor
    failed: dict[int, str] = field(default_factory=dict)

    @classmethod
    def collect(cls, parts: Sequence[Restored], size: tuple[int, int]) -> "Restoration":
        """All pictures of a stream, of `size` (H, W), in the order in which they went in.

        Raises:
            InputError: none of them could be restored; the reason of the first.
        """
        rows = sorted(parts, key=lambda one: one.index)
        failed = {one.index: one.failed for one in rows if one.failed is not None}
        if len(failed) == len(rows):
            raise InputError(failed[0])
        images = torch.full((len(rows), 3, *size), float("nan"))
        for one in rows:
            if one.image is not None:
                images[one.index] = one.image
        known = [float("nan") if one.severity is None else one.severity for one in rows]
        return cls(
            images,
            None if all(one.severity is None for one in rows) else torch.tensor(known),
            torch.tensor([one.start for one in rows]),
            torch.tensor([one.nfe for one in rows]),
            torch.tensor([one.gflop for one in rows]),
            torch.tensor([one.seconds for one in rows]),
            failed,
        )

    def row(self, i: int) -> dict[str, Any]:
        """Everything but the picture of row i, as plain numbers."""
        return {
            "severity": None if self.severity is None else float(self.severity[i]),
            "start": int(self.start[i]),
            "nfe": int(self.nfe[i]),
            "gflop": float(self.gflop[i]),
            "seconds": float(self.seconds[i]),
        }
