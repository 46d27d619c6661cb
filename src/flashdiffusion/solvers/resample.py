"""ReSample (Song et al. 2024): hard data consistency by an inner problem, then resampling.

Variable       symbol
z, z0          z_i, ẑ_0(z_i)
anchor         D0(ẑ0) or ẑ0, where the inner problem starts
gamma          γ, variance of the resampling
here, prev     ᾱ_i and ᾱ at the next lower time of the grid
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.priors import LatentPrior
from flashdiffusion.priors.autoencoder import to_image_range, to_network_range
from flashdiffusion.schedule import Grid
from flashdiffusion.solvers.inner import minimise
from flashdiffusion.solvers.problem import Problem
from flashdiffusion.solvers.registry import register_solver, setting
from flashdiffusion.solvers.solver import StepResult, check_weight
from flashdiffusion.solvers.transition import Transition

# Parts of the diffusion, in time over N: above the first nothing is corrected, above the second in pixels.
PIXELS_BELOW, LATENTS_BELOW = 0.75, 0.3
LEARNING_RATE = 0.1  # of Adam, on the [-1, 1] scale of images and in latent units


@register_solver("resample", space="latents", steps=500)
@dataclass(frozen=True)
class ReSample:
    """ReSample: every so many times, and at the last step, ẑ0 is made consistent with y, and z resampled around it.

    In the middle of the diffusion the inner problem is argmin_x ‖A(x) - y‖² from D0(ẑ0), then encoded; towards its end
    argmin_z ‖A(D0(z)) - y‖² from ẑ0. Each image's inner problem ends when its mean squared residual has come down
    to σ_y². Then z_{i-1} ~ N((σ²√ᾱ ẑ0(y) + (1-ᾱ) z') / (σ²+1-ᾱ), σ²(1-ᾱ) / (σ²+1-ᾱ)), ᾱ = ᾱ_{i-1}, with
    σ² = γ (1-ᾱ_{i-1})/ᾱ_i (1 - ᾱ_i/ᾱ_{i-1}).

    Args:
        prior: the diffusion prior.
        transition: the unconditional step z_i -> z'_{i-1}; published with 500 steps and δ = 1.
        gamma: γ >= 0; the larger, the nearer to the corrected estimate.
        proximal: weight λ >= 0 of the mean squared distance to the anchor, beside the mean squared residual.
        every: times of the full schedule from one correction to the next, >= 1; published as 10 of 500 steps.
        iterations: upper bound on the inner problem's Adam steps, >= 1.

    Raises:
        InputError: a value out of range.
    """

    prior: LatentPrior
    transition: Transition
    gamma: float = setting(200.0, "Resampling variance of ReSample, γ.", (40.0, 200.0, 1000.0))
    proximal: float = setting(0.0, "Weight of ReSample's proximal term, λ.", (0.0, 0.1))
    every: int = 20
    iterations: int = 100

    draws = 2
    name = "resample"

    def __post_init__(self) -> None:
        check_weight("gamma", self.gamma)
        check_weight("proximal", self.proximal)
        for name in ("every", "iterations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")

    @property
    def grid(self) -> Grid:
        return self.transition.grid

    def check(self, problem: Problem) -> None:
        """Accept every differentiable physics."""

    def cost(self, k: Tensor) -> Tensor:
        """Rate a plain step 1; a correction in pixels and one in latents are two further classes."""
        in_pixels, in_latents = self._corrected(k)
        return 1.0 + 20 * in_pixels + 100 * in_latents

    def _corrected(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Say which steps from k (B,) correct in pixel space, and which in latent space."""
        part = self.grid.times[k] / len(self.grid.schedule)
        due = self.grid.passes(k, self.every)
        in_latents = part < LATENTS_BELOW
        return due & ~in_latents & (part <= PIXELS_BELOW), due & in_latents

    @torch.no_grad()
    def step(self, z: Tensor, k: Tensor, problem: Problem, noise: Tensor) -> StepResult:
        z0 = self.prior.denoise(z, self.grid.times[k].to(z.device, non_blocking=True))
        step = self.transition(z, z0, k, noise[:, 0])
        iterations = torch.zeros_like(k)
        in_pixels, in_latents = self._corrected(k)
        for chosen, correct in ((in_pixels, self._in_pixels), (in_latents, self._in_latents)):
            rows = chosen.nonzero()[:, 0]
            if len(rows):
                corrected, count = correct(z0[rows], problem.take(rows))
                iterations[rows] = count.cpu()
                step[rows] = self._resample(step[rows], corrected, k[rows], noise[rows, 1])
        return StepResult(step, z0, iterations)

    def _in_pixels(self, z0: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        """Find argmin_x from D0(z0), and encode it; count the inner steps of each image."""
        x, count = self._minimise(to_network_range(self.prior.decode(z0)), problem, to_image_range)
        return self.prior.encode(to_image_range(x)), count

    def _in_latents(self, z0: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        """Find argmin_z from z0; count the inner steps of each image."""
        return self._minimise(z0, problem, self.prior.decode)

    def _minimise(self, start: Tensor, problem: Problem, decode: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        def residual_of(rows: Tensor) -> Callable[[Tensor], Tensor]:
            part = problem.take(rows)
            return lambda u: part.residual(decode(u))

        target = problem.residual_variance
        return minimise(start, residual_of, target, LEARNING_RATE, self.iterations, self.proximal, problem.gradient)

    def _resample(self, step: Tensor, corrected: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        here, prev = (self.grid.abar[index].to(step).view(-1, 1, 1, 1) for index in (k, k - 1))
        variance = self.gamma * (1 - prev) / here * (1 - here / prev)
        total = (variance + 1 - prev).clamp(min=1e-12)
        mean = (variance * prev.sqrt() * corrected + (1 - prev) * step) / total
        resampled = mean + (variance * (1 - prev) / total).sqrt() * noise
        return torch.where(prev == 1, corrected, resampled)  # the last step ends on the estimate itself
