"""Solvers that step against the gradient of a data-consistency term: Latent-DPS, GML-DPS, PSLD.

Variable      symbol in the paper
z, z0         z_i, ẑ_0(z_i)
eta, omega    η, ω
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flashdiffusion.errors import InputError, unknown_name
from flashdiffusion.priors import LatentPrior
from flashdiffusion.schedule import Grid
from flashdiffusion.solvers.problem import Problem, norm
from flashdiffusion.solvers.solver import StepResult, check_weight
from flashdiffusion.solvers.transition import Transition

LIGHT = ("off", "slope", "all")
# A guided step over one of the prior alone; the engine only asks which is more.
GUIDED_COST = 5.0


@dataclass(frozen=True)
class Gradient:
    """How the gradient of a step is taken; by default in full. docs/results.md has what each saving costs.

    Args:
        every: steps of the grid from one guided step to the next, >= 1; the last is always guided.
        jacobian: whether it goes through the denoiser; without, ∂ẑ0/∂z_i is 1/a_i, as if ε_θ were constant.
        distilled: which part of D0 the distilled decoder stands in for: "off" none, "slope" its derivative, "all" that
            and its value. The final image is D0's all the same.
        decoder: the distilled decoder, latents -> images; needed unless distilled is "off".

    Raises:
        InputError: every < 1, an unknown part, no decoder for it.
    """

    every: int = 1
    jacobian: bool = True
    distilled: str = "off"
    decoder: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"guide_every is {self.every}; expected at least 1 step")
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
        """The image that the residual is taken of, and through which the gradient goes."""
        if self.decoder is None or self.distilled == "off":
            return prior.decode(z0)
        x = self.decoder(z0)
        if self.distilled == "all":
            return x
        with torch.no_grad():
            rest = prior.decode(z0) - x
        return x + rest


@dataclass(frozen=True)
class LatentDPS:
    """Latent-DPS: z_{i-1} <- z'_{i-1} - η ∇_{z_i} ‖A(D0(ẑ0(z_i))) - y‖₂ (the paper's eq. 6, η_t = η/‖r‖).

    With the identity autoencoder this is DPS (Chung et al. 2023) in pixel space.

    Args:
        prior: the diffusion prior.
        transition: the unconditional step z_i -> z'_{i-1}.
        eta: step size η >= 0 on the [-1, 1] scale; 0 leaves the prior alone and skips decoder and gradient.
        gradient: savings in the gradient.

    Raises:
        InputError: eta negative or not finite.
    """

    prior: LatentPrior
    transition: Transition
    eta: float
    gradient: Gradient = field(default=Gradient(), kw_only=True)

    draws = 1

    def __post_init__(self) -> None:
        check_weight("eta", self.eta)

    @property
    def grid(self) -> Grid:
        return self.transition.grid

    @property
    def name(self) -> str:
        return f"latent-dps{self.gradient.label}" if self.descends else "prior"

    @property
    def descends(self) -> bool:
        """Whether there is anything to descend."""
        return self.eta > 0

    def check(self, problem: Problem) -> None:
        """Serves every differentiable physics."""

    def cost(self, k: Tensor) -> Tensor:
        return 1 + (GUIDED_COST - 1) * self._guided(k)

    def _guided(self, k: Tensor) -> Tensor:
        """Which steps from k (B,) take the gradient."""
        return self.descends & ((k % self.gradient.every == 0) | (k == 1))

    def penalty(self, z0: Tensor, x: Tensor, problem: Problem) -> Tensor:
        """What the step descends, (B,): x = D0(z0)."""
        return self.eta * problem.loss(x)

    def step(self, z: Tensor, k: Tensor, problem: Problem, noise: Tensor) -> StepResult:
        guided = self._guided(k)
        if bool(guided.all()):
            z0, descent = self._descent(z, k, problem)
            step = self.transition(z, z0, k, noise[:, 0]) - descent
        else:
            with torch.no_grad():
                z0 = self.prior.denoise(z, self._times(z, k))
            step = self.transition(z, z0, k, noise[:, 0])
            if bool(guided.any()):
                rows = guided.nonzero()[:, 0]
                z0[rows], descent = self._descent(z[rows], k[rows], problem.take(rows))
                step[rows] = self.transition(z[rows], z0[rows], k[rows], noise[rows, 0]) - descent
        work = {"prior": (~guided).long()}
        return StepResult(step, z0, work | {self.name: guided.long()} if self.descends else work)

    def _times(self, z: Tensor, k: Tensor) -> Tensor:
        return self.grid.times[k].to(z.device, non_blocking=True)

    def _descent(self, z: Tensor, k: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        """ẑ0 and the gradient of the penalty with respect to z."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            alias = z.view_as(z)  # torch's FLOP counter cannot hook a leaf
            z0 = self.prior.denoise(alias, self._times(z, k)) if self.gradient.jacobian else self._constant(alias, k)
            # Rows are independent, so the gradient of the sum holds each row's own gradient.
            (descent,) = torch.autograd.grad(self.penalty(z0, self.gradient.decode(z0, self.prior), problem).sum(), z)
        return z0.detach(), descent

    def _constant(self, z: Tensor, k: Tensor) -> Tensor:
        """ẑ0 as a function of z with ε_θ constant: z / a_i and what the denoiser makes of it."""
        a = self.grid.abar[k].sqrt().to(z, non_blocking=True).view(-1, 1, 1, 1)
        with torch.no_grad():
            rest = self.prior.denoise(z, self._times(z, k)) - z / a
        return z / a + rest

    def units(self, z: Tensor, problem: Problem) -> dict[str, Callable[[], object]]:
        k = torch.ones(len(z), dtype=torch.int64)  # the last step, which is always guided
        units: dict[str, Callable[[], object]] = {"prior": lambda: self.prior.denoise(z, self._times(z, k))}
        if self.descends:
            units[self.name] = lambda: self.step(z, k, problem, torch.zeros_like(z)[:, None])
        return units


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
        return f"gml-dps{self.gradient.label}" if self.omega else super().name

    @property
    def descends(self) -> bool:
        return self.eta > 0 or self.omega > 0

    def penalty(self, z0: Tensor, x: Tensor, problem: Problem) -> Tensor:
        penalty = super().penalty(z0, x, problem)
        if self.omega == 0:
            return penalty
        return penalty + self.omega * norm(z0 - self.prior.encode(self.glue(x, problem)))

    def glue(self, x: Tensor, problem: Problem) -> Tensor:
        """The image whose latent z0 should be."""
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
        return f"psld{self.gradient.label}" if self.omega else super().name

    def check(self, problem: Problem) -> None:
        if not problem.linear:
            raise InputError(
                f"psld needs a linear physics with A_adjoint, and {problem.name} is not; use latent-dps, gml-dps or "
                "resample"
            )

    def glue(self, x: Tensor, problem: Problem) -> Tensor:
        self.check(problem)
        return x + problem.adjoint(problem.y - problem.measure(x))
