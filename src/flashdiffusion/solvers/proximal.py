"""Proximal steps: denoise, make consistent with y by linear least squares, noise again to the next level.

Variable      symbol
z, z0         z_k and the denoised ẑ_0(z_k)
variance      m, the severity encoder's variance at each place of the latent
here, below   σ² = b_i² / a_i² at this level and the next: variance of the noise relative to the signal
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.priors import LatentPrior
from flashdiffusion.schedule import Grid
from flashdiffusion.solvers.consistency import Consistency
from flashdiffusion.solvers.estimate import in_holes
from flashdiffusion.solvers.problem import Problem
from flashdiffusion.solvers.registry import part, register_solver, setting
from flashdiffusion.solvers.solver import StepResult, check_weight

LAST_COST = 3.5  # of the last step, through the decoder itself, over that of the others
STEPS = 18
SETTLED = 10.0  # a place keeps its estimate while the noise of a level is this many times the estimate's variance


@register_solver(
    "proximal",
    space="latents",
    steps=STEPS,
    geometric=True,
    start={"refine": True, "mixing": "consistent", "correction": 3.0},
)
@dataclass(frozen=True)
class Proximal:
    """z0 = denoise(z_k); z = argmin ‖A(D(z)) - y‖² / (2 s²) + Σ (z - z0)² / (2 C); z_{k-1} = a (z + √added ε).

    C = r m σ² / (m + σ²), where m is the severity encoder's variance at each place: what is not known after an estimate
    of variance m and a look through noise of σ², and r times as much, since the two err together. Without a map (a
    start from noise) m is 1, the variance of standardised latents. Noise is added where the error of z, taken to be
    κ mean(m), is less than the next level's σ². Where σ² is far above m, as around a hole, the estimate is kept.

    Nothing was measured in a hole: there noise is added down to the last level, m is not counted, and r is at most 1,
    or the pixels around it would pull at its colours, level by level.

    No gradient goes through the denoiser. Steps take the distilled decoder's derivative, if there is one; the last goes
    on from there by the decoder's own, and the decoded image takes a proximal step too.

    Args:
        prior: the diffusion prior.
        grid: the levels.
        trust: r > 0.
        error_share: κ >= 0.
        consistency: how z is made consistent with y.

    Raises:
        InputError: a value out of range.
    """

    prior: LatentPrior
    grid: Grid
    trust: float = setting(3.0, "How far proximal steps may move a denoised estimate, r.", (2.0, 3.0, 4.0))
    error_share: float = setting(0.25, "Share of the severity that is left at each level, κ.", (0.0, 0.25, 0.5))
    consistency: Consistency = part(Consistency)  # noqa: RUF009  # `part` gives a field, as dataclasses.field does

    draws = 1
    name = "proximal"

    def __post_init__(self) -> None:
        check_weight("trust", self.trust)
        check_weight("error_share", self.error_share)
        if self.trust == 0:
            raise InputError("trust is 0; expected a number above 0")

    def check(self, problem: Problem) -> None:
        """Accept every differentiable physics."""

    def cost(self, k: Tensor) -> Tensor:
        return 1.0 + (LAST_COST - 1) * (k == 1)

    @torch.no_grad()
    def step(self, z: Tensor, k: Tensor, problem: Problem, noise: Tensor) -> StepResult:
        z0 = self.prior.denoise(z, self.grid.times[k].to(z.device, non_blocking=True))
        here, below = (self._noise(k - n).to(z) for n in (0, 1))
        variance = torch.ones_like(z[:, :1]) if problem.variance is None else problem.variance.to(z)
        inside = in_holes(problem, (z.shape[2], z.shape[3]))
        trust = self.trust if inside is None else torch.where(inside, min(1.0, self.trust), self.trust)
        allowed = trust * variance * here / (variance + here)
        if problem.estimate is not None:
            z0 = torch.where(here > SETTLED * variance, problem.estimate.to(z), z0)
        clean, image = torch.empty_like(z0), None
        for last in (False, True):
            rows = ((k == 1) == last).nonzero()[:, 0]
            if not len(rows):
                continue
            own = problem if len(rows) == len(z) else problem.take(rows)
            clean[rows] = fitted = self.consistency.latents(z0[rows], allowed[rows], own, self.prior, exact=last)
            if last:
                finished = self.consistency.pixels(self.prior.decode(fitted), own)
                image = finished.new_zeros(len(z), *finished.shape[1:])
                image[rows] = finished
        added = (below - self._left(variance, inside)).clamp(min=0).sqrt() * noise[:, 0]
        return StepResult((clean + added) / (1 + below).sqrt(), z0, image=image)

    def _left(self, variance: Tensor, inside: Tensor | None) -> Tensor:
        """Variance of the error of z after a level, (B, 1, 1 or h, 1 or w); 0 in holes, `inside`."""
        if inside is None:
            return self.error_share * variance.mean(dim=(1, 2, 3), keepdim=True)
        outside = (~inside).sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
        mean = variance.masked_fill(inside, 0).sum(dim=(1, 2, 3), keepdim=True) / outside
        return (self.error_share * mean).expand_as(variance).masked_fill(inside, 0)

    def _noise(self, k: Tensor) -> Tensor:
        """Variance of the noise at each of k (B,), relative to the signal, (B, 1, 1, 1)."""
        abar = self.grid.abar[k].view(-1, 1, 1, 1)
        return (1 - abar) / abar
