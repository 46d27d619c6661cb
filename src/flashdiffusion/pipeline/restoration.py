"""Restored images, collected."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.engine.batch import Restored
from flashdiffusion.errors import InputError


@dataclass(frozen=True)
class Restoration:
    """Restored images; every field is on the CPU and has one row per image.

    images: float32 (B, 3, H, W) in [0, 1]; NaN where there is none. severity: σ̂² in scaled latent units, float32 (B,),
    None if no severity encoder was used. start: position of the start on the solver's grid, int64 (B,). nfe: denoiser
    evaluations run, int64 (B,). gflop: arithmetic spent, float32 (B,). seconds: the image's share of the wall-clock
    time of the calls it took part in, float32 (B,). failed: why an image has no image, by its row.
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
        """All images of a stream, of `size` (H, W), in the order in which they went in.

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
        """Everything but the image of row i, as plain numbers."""
        return {
            "severity": None if self.severity is None else float(self.severity[i]),
            "start": int(self.start[i]),
            "nfe": int(self.nfe[i]),
            "gflop": float(self.gflop[i]),
            "seconds": float(self.seconds[i]),
        }
