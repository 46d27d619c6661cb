"""One reverse step of the diffusion, each row at its own time.

Variable      symbol in the paper (appendix E)
z, z0         z_i, ẑ_0(z_i)
abar, prev    ᾱ_i and ᾱ at the next lower time of the grid
sigma         δ β̃_i
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.schedule import Grid
from flashdiffusion.solvers.registry import setting


@dataclass(frozen=True)
class Transition:
    """z_i -> z_{i-1} on a grid: DDIM with stochasticity δ; δ = 1 is DDPM's ancestral step.

    Args:
        grid: the times that are visited.
        delta: δ in [0, 1]; 0 is deterministic.

    Raises:
        InputError: delta outside [0, 1].
    """

    grid: Grid
    delta: float = setting(1.0, "Stochasticity of a step in [0, 1]; 0 is DDIM, 1 is DDPM.")
    weights: Tensor = field(init=False, repr=False, compare=False)  # of z, ẑ0 and noise at each k, (3, K + 1)

    def __post_init__(self) -> None:
        if not 0 <= self.delta <= 1:
            raise InputError(f"delta is {self.delta}; expected a number in [0, 1]")
        abar = self.grid.abar
        prev, here = abar[:-1], abar[1:]
        sigma = self.delta * ((1 - prev) / (1 - here) * (1 - here / prev)).sqrt()
        direction = (1 - prev - sigma.square()).clamp(min=0).sqrt()
        # z_{i-1} = √ᾱ' ẑ0 + √(1 - ᾱ' - σ²) ε + σ·noise with ε = (z - a ẑ0) / b, as weights of z, ẑ0 and noise.
        b = (1 - here).sqrt()
        weights = torch.stack([direction / b, prev.sqrt() - direction * here.sqrt() / b, sigma])
        object.__setattr__(self, "weights", torch.cat([torch.zeros(3, 1), weights], dim=1).float())

    def __call__(self, z: Tensor, z0: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        """Make the next latents of z_i, its posterior mean and unit noise, all (B, c, h, w); k in 1..K, CPU (B,)."""
        of_z, of_z0, of_noise = self.weights[:, k].to(z, non_blocking=True).view(3, -1, 1, 1, 1)
        return of_z * z + of_z0 * z0 + of_noise * noise
