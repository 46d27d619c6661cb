"""Random numbers of a training step: a function of (seed, step) alone.

Drawn for the global batch and cut to this process's rows, so that the number of processes changes nothing
and a resumed run draws what it would have drawn, without any generator state to save.
"""

import torch
from torch import Tensor


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's generator: below 2**32 (a CPU generator ignores higher bits) for seeds below 256."""
    return (seed << 24) + step


class Draws:
    """Random tensors for the rows of one step that this process holds."""

    def __init__(self, seed: int, step: int, total: int, rows: slice, device: torch.device | str) -> None:
        self.generator = torch.Generator(device).manual_seed(step_seed(seed, step))
        self.total, self.rows, self.device = total, rows, torch.device(device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal (rows, *shape)."""
        return torch.randn(self.total, *shape, generator=self.generator, device=self.device)[self.rows]

    def uniform(self) -> Tensor:
        """U[0, 1), (rows,)."""
        return torch.rand(self.total, generator=self.generator, device=self.device)[self.rows]

    def integers(self, low: int, high: int) -> Tensor:
        """Integers in [low, high), (rows,)."""
        draw = torch.randint(low, high, (self.total,), generator=self.generator, device=self.device)
        return draw[self.rows]
