"""What is known of measurements beside themselves, as further input planes of the severity encoder and its head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

UNIT = 0.2  # σ_y that stands as 1 in its plane
_SHARED = 4  # planes that every encoder with conditions has: lost pixels, whether σ_y is known, σ_y, and what A keeps
_POWERS = 6  # of σ_y and of what A takes away: two squares, two fourth powers, their product, and mildness
_TENSORS = ("noise_std", "lost", "kept")


@dataclass(frozen=True)
class Conditions:
    """What is known of each image; an encoder works without any of it, and better with it.

    noise_std: σ_y on the [0, 1] scale, NaN where it is not known, (B,). lost: 1 where nothing was measured, else 0,
    (B, 1, H, W). kinds: names of the degradations, "" where not known, B of them. kept: share of the energy of white
    noise that A lets through, in [0, 1], (B,): how strong a blur is, or how much was lost. It is told with the
    degradation, and not without.
    """

    noise_std: Tensor
    lost: Tensor
    kinds: Sequence[str]
    kept: Tensor

    @classmethod
    def none(cls, y: Tensor) -> "Conditions":
        """Give the conditions of images (B, 3, H, W) of which nothing is known."""
        row = y[:, 0, 0, 0]
        return cls(torch.full_like(row, torch.nan), torch.zeros_like(y[:, :1]), [""] * len(y), torch.ones_like(row))

    @classmethod
    def join(cls, parts: Sequence["Conditions"], order: Tensor) -> "Conditions":
        """Put those of several batches one after the other, then in this order of rows."""
        std, lost, kept = (torch.cat([getattr(part, name) for part in parts])[order] for name in _TENSORS)
        kinds = [name for part in parts for name in part.kinds]
        return cls(std, lost, [kinds[row] for row in order.tolist()], kept)

    def with_lost(self, change: Callable[[Tensor], Tensor]) -> "Conditions":
        """Change the map of lost pixels as the images are, by padding."""
        return replace(self, lost=change(self.lost))

    def without(self, noise_std: Tensor, lost: Tensor, kind: Tensor) -> "Conditions":
        """Forget some of it: bool (B,) each."""
        return replace(
            self,
            noise_std=self.noise_std.masked_fill(noise_std, torch.nan),
            lost=self.lost.masked_fill(lost.view(-1, 1, 1, 1), 0),
            kept=self.kept.masked_fill(kind, 1),
            kinds=["" if forget else name for name, forget in zip(self.kinds, kind.tolist(), strict=True)],
        )

    def planes(self, names: Sequence[str]) -> Tensor:
        """Give the planes of an encoder that knows degradations of these names, (B, count_planes(names), H, W)."""
        numbers = self._numbers(names)[:, :, None, None].expand(-1, -1, *self.lost.shape[2:])
        return torch.cat([self.lost, numbers], dim=1)

    def summary(self, names: Sequence[str]) -> Tensor:
        """Give the same in a few numbers of each image, (B, count_numbers(names)).

        Powers and the product of σ_y and of what A takes away come with it, for a head of few layers.
        """
        numbers, lost = self._numbers(names), self.lost.mean(dim=(1, 2, 3))[:, None]
        both = numbers[:, 1:3]  # σ_y, and what A takes away
        mild = (1 - both[:, 1:]).clamp(min=0)
        return torch.cat([numbers, lost, both**2, both**4, both.prod(dim=1, keepdim=True), mild], dim=1)

    def _numbers(self, names: Sequence[str]) -> Tensor:
        known = self.noise_std.isfinite()
        level = torch.where(known, self.noise_std / UNIT, 0)
        kinds = torch.tensor([[float(own == name) for name in names] for own in self.kinds]).to(level)
        # Of a degradation that the encoder does not know, its strength says nothing. The root of the logarithm is
        # nearly linear in the std of a blur where it begins, and even in its ratios later.
        taken = kinds.sum(dim=1) * -self.kept.clamp(1e-4, 1).log10()
        return torch.cat([known.to(level)[:, None], level[:, None], taken.sqrt()[:, None], kinds], dim=1)


def count_planes(names: Sequence[str]) -> int:
    """Count the planes of an encoder that knows degradations of these names."""
    return _SHARED + len(names)


def count_numbers(names: Sequence[str]) -> int:
    """Count the numbers of `Conditions.summary`."""
    return count_planes(names) + _POWERS
