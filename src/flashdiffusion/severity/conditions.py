"""What is known of measurements beside themselves, as further input planes of the severity encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

UNIT = 0.2  # σ_y that stands as 1 in its plane
_SHARED = 3  # planes that every encoder with conditions has: whether σ_y is known, σ_y, and lost pixels


@dataclass(frozen=True)
class Conditions:
    """What is known of each image; an encoder works without any of it, and better with it.

    noise_std: σ_y on the [0, 1] scale, NaN where it is not known, (B,). lost: 1 where nothing was measured, else 0,
    (B, 1, H, W). kinds: names of the degradations, "" where not known, B of them.
    """

    noise_std: Tensor
    lost: Tensor
    kinds: Sequence[str]

    @classmethod
    def none(cls, y: Tensor) -> "Conditions":
        """Give the conditions of images (B, 3, H, W) of which nothing is known."""
        return cls(torch.full_like(y[:, 0, 0, 0], torch.nan), torch.zeros_like(y[:, :1]), [""] * len(y))

    def without(self, noise_std: Tensor, lost: Tensor, kind: Tensor) -> "Conditions":
        """Forget some of it: bool (B,) each."""
        return replace(
            self,
            noise_std=self.noise_std.masked_fill(noise_std, torch.nan),
            lost=self.lost.masked_fill(lost.view(-1, 1, 1, 1), 0),
            kinds=["" if forget else name for name, forget in zip(self.kinds, kind.tolist(), strict=True)],
        )

    def planes(self, names: Sequence[str]) -> Tensor:
        """Give the planes of an encoder that knows degradations of these names, (B, count_planes(names), H, W)."""
        known = self.noise_std.isfinite()
        level = torch.where(known, self.noise_std / UNIT, 0)
        kinds = torch.tensor([[float(own == name) for name in names] for own in self.kinds]).to(level)
        numbers = torch.cat([known.to(level)[:, None], level[:, None], kinds], dim=1)
        return torch.cat([self.lost, numbers[:, :, None, None].expand(-1, -1, *self.lost.shape[2:])], dim=1)


def count_planes(names: Sequence[str]) -> int:
    """Count the planes of an encoder that knows degradations of these names."""
    return _SHARED + len(names)
