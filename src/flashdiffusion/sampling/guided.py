"""Solvers: the rule that keeps z consistent with y. One step, no loop, no randomness of its own."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.priors import LatentPrior
from flashdiffusion.sampling.problem import Problem
from flashdiffusion.sampling.transition import Transition
from flashdiffusion.schedule import Grid


@dataclass(frozen=True)
class StepResult:
    """z: latents at the next time; z0: posterior mean at this one. Both (B, c, h, w)."""

    z: Tensor
    z0: Tensor


class Solver(Protocol):
    """One reverse step for a batch whose rows stand at times of their own."""

    @property
    def grid(self) -> Grid:
        """The times this solver visits."""
        ...

    @property
    def name(self) -> str:
        """What its steps are called in records; steps of one name cost the same."""
        ...

    def step(self, z: Tensor, k: Tensor, problem: Problem, noise: Tensor) -> StepResult:
        """From grid position k (B,) to k - 1; rows do not influence each other."""
        ...


@dataclass(frozen=True)
class LatentDPS:
    """Latent-DPS: z_{i-1} <- z'_{i-1} - η ∇_{z_i} ‖A(D0(ẑ0(z_i))) - y‖₂ (the paper's eq. 6, η_t = η/‖r‖).

    With the identity autoencoder this is DPS (Chung et al. 2023) in pixel space.

    Args:
        prior: the diffusion prior.
        transition: the unconditional step z_i -> z'_{i-1}.
        eta: step size η >= 0 on the [-1, 1] scale; 0 leaves the prior alone and skips decoder and gradient.

    Raises:
        InputError: eta negative or not finite.
    """

    prior: LatentPrior
    transition: Transition
    eta: float

    def __post_init__(self) -> None:
        if not 0 <= self.eta < float("inf"):
            raise InputError(f"eta is {self.eta}; expected a finite number >= 0")

    @property
    def grid(self) -> Grid:
        return self.transition.grid

    @property
    def name(self) -> str:
        return "latent-dps" if self.eta else "prior"

    def step(self, z: Tensor, k: Tensor, problem: Problem, noise: Tensor) -> StepResult:
        i = self.grid.times.to(k.device)[k]
        if self.eta == 0:
            with torch.no_grad():
                z0 = self.prior.denoise(z, i)
                return StepResult(self.transition(z, z0, k, noise), z0)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            z0 = self.prior.denoise(z.view_as(z), i)  # a view, since torch's FLOP counter cannot hook a leaf
            # Rows are independent, so the gradient of the sum holds each row's own gradient.
            (gradient,) = torch.autograd.grad(problem.loss(self.prior.decode(z0)).sum(), z)
        z, z0 = z.detach(), z0.detach()
        return StepResult(self.transition(z, z0, k, noise) - self.eta * gradient, z0)
