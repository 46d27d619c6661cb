"""Solvers that step against the gradient of a data-consistency term: Latent-DPS, GML-DPS, PSLD.

Variable      symbol in the paper
z, z0         z_i, ẑ_0(z_i)
guidance      η
omega         ω
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.errors import InputError, unknown_name
from flashdiffusion.priors import LatentPrior
from flashdiffusion.schedule import Grid
from flashdiffusion.solvers.problem import Problem, norm
from flashdiffusion.solvers.registry import part, register_solver, setting
from flashdiffusion.solvers.solver import StepResult, check_weight
from flashdiffusion.solvers.transition import Transition

LIGHT = ("off", "slope", "all")
# A guided step over one of the prior alone; the engine only asks which is more.
GUIDED_COST = 5.0
NO_SAVINGS = {"guide_every": 1, "jacobian": True, "distilled": "off"}

# What a step descends, per image: ẑ0, x = D0(ẑ0) and the problem -> (B,).
Term = Callable[[Tensor, Tensor, Problem], Tensor]


@dataclass(frozen=True)
class Gradient:
    """How the gradient of a step is taken; by default in full. docs/performance.md has what each saving costs.

    Args:
        guide_every: times of the full schedule from one guided step to the next, >= 1, whatever the grid; the last
            step is always guided.
        jacobian: whether it goes through the denoiser; without, ∂ẑ0/∂z_i is 1/a_i, as if ε_θ were constant.
        distilled: which part of D0 the distilled decoder stands in for: "off" none, "slope" its derivative, "all" that
            and its value. The final image is D0's all the same.
        decoder: the distilled decoder, latents -> images; needed unless distilled is "off".

    Raises:
        InputError: guide_every < 1, an unknown part, no decoder for it.
    """

    guide_every: int = setting(1, "Times of the full schedule from one guided step to the next.")
    jacobian: bool = setting(True, "Whether the gradient goes through the denoiser.")
    distilled: str = setting("off", "The distilled decoder in the gradient: off, slope or all.")
    decoder: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.guide_every < 1:
            raise InputError(f"guide_every is {self.guide_every}; expected at least 1 time of the schedule")
        if self.distilled not in LIGHT:
            raise unknown_name("distilled", self.distilled, LIGHT)
        if self.distilled != "off" and self.decoder is None:
            raise InputError(
                "this model has no distilled decoder; train one with `flashdiffusion train distilled-decoder`"
            )

    @property
    def label(self) -> str:
        """What a guided step with these savings is called after its method; steps of one name cost the same."""
        parts = [] if self.jacobian else ["no jacobian"]
        parts += [] if self.distilled == "off" else [f"distilled {self.distilled}"]
        return f" ({', '.join(parts)})" if parts else ""

    def decode(self, z0: Tensor, prior: LatentPrior) -> Tensor:
        """Decode to the image that the residual is taken of, and through which the gradient goes."""
        if self.decoder is None or self.distilled == "off":
            return prior.decode(z0)
        x = self.decoder(z0)
        if self.distilled == "all":
            return x
        with torch.no_grad():
            rest = prior.decode(z0) - x
        return x + rest


@dataclass(frozen=True)
class Guided(ABC):
    """A step of the prior, less the gradient of a sum of terms with respect to z_i; subclasses give the terms.

    Args:
        prior: the diffusion prior.
        transition: the unconditional step z_i -> z'_{i-1}.
        gradient: savings in the gradient.
    """

    prior: LatentPrior
    transition: Transition
    gradient: Gradient = part(Gradient)  # noqa: RUF009  # `part` gives a field, as dataclasses.field does

    draws = 1
    method = "guided"
    linear_only = False  # whether the terms need Aᵀ

    @property
    @abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """What is descended; with no terms the prior is left alone, and decoder and gradient are skipped."""

    @property
    def grid(self) -> Grid:
        return self.transition.grid

    @property
    def name(self) -> str:
        return f"{self.method}{self.gradient.label}" if self.terms else "prior"

    def check(self, problem: Problem) -> None:
        if self.linear_only and not problem.linear:
            raise InputError(
                f"{self.method} needs a linear physics with A_adjoint, and {problem.name} is not; use latent-dps, "
                "gml-dps or resample"
            )

    def cost(self, k: Tensor) -> Tensor:
        return 1 + (GUIDED_COST - 1) * self._guided(k)

    def _guided(self, k: Tensor) -> Tensor:
        """Say which steps from k (B,) take the gradient."""
        return bool(self.terms) & self.grid.passes(k, self.gradient.guide_every)

    def step(self, z: Tensor, k: Tensor, problem: Problem, noise: Tensor) -> StepResult:
        self.check(problem)
        guided = self._guided(k)
        z0, descent = torch.empty_like(z), torch.zeros_like(z)
        for chosen, estimate in ((guided, self._descent), (~guided, self._free)):
            rows = chosen.nonzero()[:, 0]
            if len(rows) == len(z):
                z0, descent = estimate(z, k, problem)
            elif len(rows):
                z0[rows], descent[rows] = estimate(z[rows], k[rows], problem.take(rows))
        return StepResult(self.transition(z, z0, k, noise[:, 0]) - descent, z0)

    def _times(self, z: Tensor, k: Tensor) -> Tensor:
        return self.grid.times[k].to(z.device, non_blocking=True)

    @torch.no_grad()
    def _free(self, z: Tensor, k: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        """Give ẑ0, and nothing to descend."""
        return self.prior.denoise(z, self._times(z, k)), torch.zeros_like(z)

    def _descent(self, z: Tensor, k: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        """Give ẑ0, and the gradient of the terms with respect to z."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            z0 = self.prior.denoise(z, self._times(z, k)) if self.gradient.jacobian else self._constant(z, k)
            x = self.gradient.decode(z0, self.prior)
            total = torch.stack([term(z0, x, problem) for term in self.terms]).sum()
            # Rows are independent, so the gradient of the sum holds each row's own gradient.
            descent = problem.gradient(total, z)
        return z0.detach(), descent

    def _constant(self, z: Tensor, k: Tensor) -> Tensor:
        """Give ẑ0 as a function of z with ε_θ constant: z / a_i and what the denoiser adds to it."""
        a = self.grid.abar[k].sqrt().to(z, non_blocking=True).view(-1, 1, 1, 1)
        with torch.no_grad():
            rest = self.prior.denoise(z, self._times(z, k)) - z / a
        return z / a + rest


def data_term(guidance: float) -> tuple[Term, ...]:
    """Weigh the data: η ‖A(D0(ẑ0)) - y‖₂; no term for η = 0."""
    return (lambda z0, x, problem: guidance * problem.loss(x),) if guidance else ()


def fixed_point_term(omega: float, prior: LatentPrior) -> tuple[Term, ...]:
    """Keep ẑ0 at a fixed point of the autoencoder: ω ‖ẑ0 - E0(D0(ẑ0))‖₂; no term for ω = 0."""
    return (lambda z0, x, problem: omega * norm(z0 - prior.encode(x)),) if omega else ()


def gluing_term(omega: float, prior: LatentPrior) -> tuple[Term, ...]:
    """Glue what was measured to the rest: ω ‖ẑ0 - E0(Aᵀy + (I - AᵀA) D0(ẑ0))‖₂, A linear; no term for ω = 0."""

    def term(z0: Tensor, x: Tensor, problem: Problem) -> Tensor:
        return omega * norm(z0 - prior.encode(x + problem.back_projection(x)))

    return (term,) if omega else ()


@register_solver("prior", fixed={"guidance": 0.0, **NO_SAVINGS})
@register_solver("dps", space="pixels", fixed={"distilled": "off"})
@register_solver("latent-dps", space="latents")
@dataclass(frozen=True)
class LatentDPS(Guided):
    """Latent-DPS: z_{i-1} <- z'_{i-1} - η ∇_{z_i} ‖A(D0(ẑ0(z_i))) - y‖₂ (the paper's eq. 6, η_t = η/‖r‖).

    With the identity autoencoder this is DPS (Chung et al. 2023) in pixel space, and with η = 0 the prior alone.

    Args:
        guidance: weight η >= 0 of the data term, the papers' step size for residuals on the [-1, 1] scale.

    Raises:
        InputError: guidance negative or not finite.
    """

    guidance: float = setting(
        1.0, "Step size of the data consistency, the papers' η; not DDIM's.", (0.5, 1.0, 2.0, 4.0, 8.0), alias="eta"
    )

    method = "latent-dps"

    def __post_init__(self) -> None:
        check_weight("guidance", self.guidance)

    @property
    def terms(self) -> tuple[Term, ...]:
        return data_term(self.guidance)


@dataclass(frozen=True)
class WithSecondTerm(LatentDPS):
    """Latent-DPS and a second term.

    Args:
        omega: weight ω >= 0 of the second term.

    Raises:
        InputError: guidance or omega negative or not finite.
    """

    omega: float = setting(0.05, "Weight of the second term of GML-DPS and PSLD, ω.", (0.02, 0.1, 0.5))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("omega", self.omega)


@register_solver("gml-dps", space="latents")
@dataclass(frozen=True)
class GMLDPS(WithSecondTerm):
    """GML-DPS (Rout et al. 2023): Latent-DPS and + ω ∇ ‖ẑ0 - E0(D0(ẑ0))‖₂."""

    method = "gml-dps"

    @property
    def terms(self) -> tuple[Term, ...]:
        return data_term(self.guidance) + fixed_point_term(self.omega, self.prior)


@register_solver("psld", space="latents")
@dataclass(frozen=True)
class PSLD(WithSecondTerm):
    """PSLD (Rout et al. 2023): Latent-DPS and + ω ∇ ‖ẑ0 - E0(Aᵀy + (I - AᵀA) D0(ẑ0))‖₂; linear physics only."""

    method = "psld"
    linear_only = True

    @property
    def terms(self) -> tuple[Term, ...]:
        return data_term(self.guidance) + gluing_term(self.omega, self.prior)
