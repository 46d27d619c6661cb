"""One look of the denoiser at a noisy image: the posterior mean, where y is the image itself with white noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.errors import UnsuitedError
from flashdiffusion.physics import BatchedPhysics, Denoising
from flashdiffusion.priors import LatentPrior
from flashdiffusion.schedule import Grid
from flashdiffusion.solvers.problem import Problem
from flashdiffusion.solvers.registry import Networks, register_start
from flashdiffusion.solvers.start import Start


@register_start("denoised", alone="denoise")
@dataclass(frozen=True)
class Denoised:
    """E[x | y] of y = x + n, n ~ N(0, σ_y² I), by one evaluation of the denoiser, and no steps.

    a_i E0(y) is then a latent of the forward process, at the time i whose b_i² / a_i² is the variance of n, and
    ẑ_0 of it is the mean of all clean latents that it can come from. Latents must be such that white noise stays white.

    Raises:
        UnsuitedError: other latents (when built); another physics, or noise of unknown strength (when called).
    """

    physics = Denoising.name  # the only one that it is for

    @classmethod
    def build(cls, networks: Networks) -> "Denoised":
        """Make one for the model's latents."""
        if not networks.prior.autoencoder.keeps_white_noise:
            raise UnsuitedError(
                "denoise needs latents in which white noise stays white, a patch autoencoder's or pixels; take "
                '"flash(proximal)" or "ae" with this model'
            )
        return cls()

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        physics = problem.physics
        names = set(physics.expand(len(problem)).names) if isinstance(physics, BatchedPhysics) else {problem.name}
        if names != {self.physics} or not problem.noise_known:
            raise UnsuitedError(
                f"denoise is for physics {self.physics} with a noise_std that is known, not for {', '.join(names)}; "
                'take "flash(proximal)" or "ae"'
            )
        i = grid.schedule.grid().match(problem.entry_variance)
        z = prior.encode(problem.for_network(problem.image))
        scale = grid.schedule.abar[i.cpu()].sqrt().to(z).view(-1, 1, 1, 1)
        z0 = prior.denoise(scale * z, i.to(z.device))
        nothing = torch.zeros(len(problem), dtype=torch.int64, device=z.device)
        return Start(z0, nothing, nfe=nothing + 1)
