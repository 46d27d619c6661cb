"""A prior solvable in closed form: orthonormal linear autoencoder, Gaussian latents, the exact denoiser.

Latents are N(0, s² I) with one s per channel, so E[z0 | z_i] = a s² / (a² s² + b²) z_i, and DDIM's marginals, the
true posterior and the true severity are all known.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.engine.batch import Restored
from flashdiffusion.engine.noise import ImageNoise
from flashdiffusion.engine.slots import InFlight, Slots
from flashdiffusion.schedule import NoiseSchedule
from flashdiffusion.solvers import Problem, Solver

COMPVIS = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}


class ToyPrior:
    """The interface of LatentPrior for images (B, 3, H, W) and latents (B, 12, H/2, W/2)."""

    factor, channels = 2, 12
    quantises = invertible = False

    def __init__(self, scale: float = 0.7, dtype: torch.dtype = torch.float64) -> None:
        self.schedule = NoiseSchedule.from_config(COMPVIS)
        self.abar = self.schedule.abar.to(dtype)
        self.std = scale * torch.linspace(0.5, 1.5, self.channels, dtype=dtype).view(1, -1, 1, 1)
        generator = torch.Generator().manual_seed(0)
        square = torch.randn(self.channels, self.channels, generator=generator, dtype=dtype)
        self.basis = torch.linalg.qr(square).Q  # orthonormal: (latent channels, 3 * 2 * 2)
        self.device, self.dtype = torch.device("cpu"), dtype

    def encode(self, x: Tensor) -> Tensor:
        return torch.einsum("cp,bphw->bchw", self.basis, torch.nn.functional.pixel_unshuffle(2 * x - 1, 2))

    def decode(self, z: Tensor) -> Tensor:
        return (torch.nn.functional.pixel_shuffle(torch.einsum("cp,bchw->bphw", self.basis, z), 2) + 1) / 2

    smooth_decode = decode

    def denoise(self, z: Tensor, i: Tensor) -> Tensor:
        abar = self.abar[i].view(-1, 1, 1, 1)
        return abar.sqrt() * self.std**2 / (abar * self.std**2 + 1 - abar) * z

    def sample(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Clean latents (count, 12, size/2, size/2) of the prior."""
        shape = (count, self.channels, size // 2, size // 2)
        return self.std * torch.randn(shape, generator=generator, dtype=self.dtype)


def started(z: Tensor, k: Tensor, problem: Problem, solver: Solver, seeds: list[int] | None = None) -> list[InFlight]:
    """The rows of a batch, each with a generator of its own seed (default: its row)."""
    own = [ImageNoise(torch.Generator().manual_seed(seed)) for seed in (range(len(z)) if seeds is None else seeds)]
    return [InFlight(Restored(n, str(n)), z[n], int(k[n]), problem, n, solver, own[n]) for n in range(len(z))]


def run(
    batches: Iterable[Sequence[InFlight]], max_in_flight: Any = 16, *args: Any, **options: Any
) -> Iterator[InFlight]:
    """Every image from its own start to clean, in the engine's slots."""
    return chain.from_iterable(Slots(max_in_flight, *args, **options).run(batches))
