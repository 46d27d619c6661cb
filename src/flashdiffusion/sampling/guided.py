"""Solvers that step against the gradient of a data-consistency term: Latent-DPS, GML-DPS, PSLD.

Variable      symbol in the paper
z, z0         z_i, ẑ_0(z_i)
eta, omega    η, ω
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.priors import LatentPrior
from flashdiffusion.sampling.problem import Problem, norm
from flashdiffusion.sampling.solver import StepResult, check_weight
from flashdiffusion.sampling.transition import Transition
from flashdiffusion.schedule import Grid


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

    draws = 1

    def __post_init__(self) -> None:
        check_weight("eta", self.eta)

    @property
    def grid(self) -> Grid:
        return self.transition.grid

    @property
    def name(self) -> str:
        return "latent-dps" if self.eta else "prior"

    @property
    def guided(self) -> bool:
        """Whether there is anything to descend."""
        return self.eta > 0

    def check(self, problem: Problem) -> None:
        """Serves every differentiable physics."""

    def cost(self, k: Tensor) -> Tensor:
        return torch.ones_like(k, dtype=torch.float32)

    def penalty(self, z0: Tensor, x: Tensor, problem: Problem) -> Tensor:
        """What the step descends, (B,): x = D0(z0)."""
        return self.eta * problem.loss(x)

    def step(self, z: Tensor, k: Tensor, problem: Problem, noise: Tensor) -> StepResult:
        i = self.grid.times[k].to(z.device, non_blocking=True)
        work = {self.name: torch.ones_like(k)}
        if not self.guided:
            with torch.no_grad():
                z0 = self.prior.denoise(z, i)
                return StepResult(self.transition(z, z0, k, noise[:, 0]), z0, work)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            z0 = self.prior.denoise(z.view_as(z), i)  # a view, since torch's FLOP counter cannot hook a leaf
            # Rows are independent, so the gradient of the sum holds each row's own gradient.
            (gradient,) = torch.autograd.grad(self.penalty(z0, self.prior.decode(z0), problem).sum(), z)
        z, z0 = z.detach(), z0.detach()
        return StepResult(self.transition(z, z0, k, noise[:, 0]) - gradient, z0, work)

    def units(self, z: Tensor, problem: Problem) -> dict[str, Callable[[], object]]:
        k = torch.ones(len(z), dtype=torch.int64)
        return {self.name: lambda: self.step(z, k, problem, torch.zeros_like(z)[:, None])}


@dataclass(frozen=True)
class GMLDPS(LatentDPS):
    """GML-DPS (Rout et al. 2023): Latent-DPS that also keeps z at a fixed point of the autoencoder,
    + ω ∇ ‖ẑ0 - E0(D0(ẑ0))‖₂.

    Args:
        omega: weight ω >= 0 of that term.

    Raises:
        InputError: eta or omega negative or not finite.
    """

    omega: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("omega", self.omega)

    @property
    def name(self) -> str:
        return "gml-dps" if self.omega else super().name

    @property
    def guided(self) -> bool:
        return self.eta > 0 or self.omega > 0

    def penalty(self, z0: Tensor, x: Tensor, problem: Problem) -> Tensor:
        penalty = super().penalty(z0, x, problem)
        if self.omega == 0:
            return penalty
        return penalty + self.omega * norm(z0 - self.prior.encode(self.glue(x, problem)))

    def glue(self, x: Tensor, problem: Problem) -> Tensor:
        """The picture whose latent z0 should be."""
        return x


@dataclass(frozen=True)
class PSLD(GMLDPS):
    """PSLD (Rout et al. 2023): Latent-DPS with + ω ∇ ‖ẑ0 - E0(Aᵀy + (I - AᵀA) D0(ẑ0))‖₂; linear physics only.

    Args:
        omega: weight ω >= 0 of that term.

    Raises:
        InputError: eta or omega negative or not finite; a physics without adjoint.
    """

    @property
    def name(self) -> str:
        return "psld" if self.omega else super().name

    def check(self, problem: Problem) -> None:
        if not problem.linear:
            raise InputError(
                f"psld needs a linear physics with A_adjoint, and {problem.name} is not; use latent-dps, gml-dps or "
                "resample"
            )

    def glue(self, x: Tensor, problem: Problem) -> Tensor:
        self.check(problem)
        return x + problem.adjoint(problem.y - problem.measure(x))
