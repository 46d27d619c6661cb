"""Data consistency as one small linear least-squares problem around an estimate of known variance."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.physics.least_squares import least_squares
from flashdiffusion.priors import LatentPrior
from flashdiffusion.solvers.problem import Problem, scaled
from flashdiffusion.solvers.registry import setting
from flashdiffusion.solvers.solver import check_weight

Decode = Callable[[Tensor], Tensor]
LATENT_ITERATIONS, PIXEL_ITERATIONS = 5, 10  # of conjugate gradients
LEAST_VARIANCE = 1e-6  # of a place of the latent
# Where neither the measurements nor the decoder are said to err, they are taken to by this much, on the [0, 1] scale.
LEAST_ERROR = 1e-3


@dataclass(frozen=True)
class Consistency:
    """Moves estimates towards what was measured, each place as far as its variance allows; see `gauss_newton`.

    Args:
        decoder_error: standard deviation of x - D0(E0(x)) on the [0, 1] scale, at least 0. Measurements are trusted
            that much less, and finished images may differ from what the decoder gives by as much.
        decoder: a stand-in for the prior's decoder in the derivative, the distilled one; None for the prior's own.

    Raises:
        InputError: decoder_error negative or not finite.
    """

    decoder_error: float = setting(0.028, "Standard deviation of what the decoder cannot show, on the [0, 1] scale.")
    decoder: Decode | None = None

    def __post_init__(self) -> None:
        check_weight("decoder_error", self.decoder_error)

    def latents(self, z: Tensor, variance: Tensor, problem: Problem, prior: LatentPrior, exact: bool = False) -> Tensor:
        """Move latents (B, c, h, w) of this variance at each place, (B, 1, h, w).

        Args:
            exact: whether the derivative is that of the prior's decoder, whatever stands in for it.
        """
        stand_in = None if exact else self.decoder
        return gauss_newton(
            z,
            variance.to(z).clamp(min=LEAST_VARIANCE),
            problem,
            prior.smooth_decode if stand_in is None else stand_in,
            value=prior.decode(z) if stand_in is not None or prior.quantises else None,
            error=self.decoder_error,
            iterations=LATENT_ITERATIONS,
            precision=prior.dtype,
        )

    def pixels(self, x: Tensor, problem: Problem) -> Tensor:
        """Move decoded images (B, 3, H, W): y tells of detail that the decoder cannot show."""
        if not self.decoder_error:
            return x
        variance = torch.full_like(x[:, :1], self.decoder_error**2)
        return gauss_newton(x, variance, problem, lambda image: image, iterations=PIXEL_ITERATIONS)


def gauss_newton(
    estimate: Tensor,
    variance: Tensor,
    problem: Problem,
    decode: Decode,
    *,
    value: Tensor | None = None,
    error: float = 0.0,
    iterations: int,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Take one Gauss-Newton step from ū of argmin_u ‖A(D(u)) - y‖² / (2 s²) + Σ (u - ū)² / (2 C).

    It is the posterior mode for u ~ N(ū, C) where A(D(u)) is linear. With J the derivative of A(D(u)) and r its
    residual, d = √C v solves (√C Jᵀ J √C / s² + 1) v = -√C Jᵀ r / s² by conjugate gradients. Jᵀ is autograd's; J is a
    forward difference, so that any differentiable physics will do.

    Args:
        estimate: ū, latents or images (B, ...).
        variance: C > 0, broadcast to the estimate.
        decode: D, to images (B, 3, H, W) on the [0, 1] scale, for J.
        value: D(ū) for r, where `decode` only stands in for D.
        error: standard deviation of D on the [0, 1] scale; s² is σ_y² and its square.
        iterations: of conjugate gradients.
        precision: in which `decode` computes.

    Raises:
        InputError: the physics, or its derivative, fails.
    """
    weight = (problem.entry_variance + 4 * error**2).clamp(min=4 * LEAST_ERROR**2).rsqrt()
    with torch.enable_grad():
        at = estimate.detach().requires_grad_()
        here = scaled(weight, problem.residual(decode(at)))
    base = here.detach()
    residual = base if value is None else scaled(weight, problem.residual(value))
    std = variance.sqrt().expand_as(estimate)
    # Where rounding and curvature both cost little. The derivative of Jᵀ would be exact, for a third more arithmetic.
    step = 30 * torch.finfo(precision).eps ** 0.5

    @torch.no_grad()
    def forward(v: Tensor) -> Tensor:
        size = step / (std * v).flatten(1).abs().amax(dim=1).clamp(min=1e-12)
        moved = scaled(weight, problem.residual(decode(estimate + scaled(size, std * v))))
        return scaled(1 / size, moved - base)

    def backward(q: Tensor) -> Tensor:
        return std * problem.gradient(here, at, q)

    v = least_squares(forward, backward, -residual, iterations, start=torch.zeros_like(estimate), proximal=1.0)
    # What is not finite here has no solution, and its image is to fail.
    lost = ~residual.flatten(1).isfinite().all(dim=1)
    return torch.where(lost.view(-1, *[1] * (estimate.ndim - 1)), torch.nan, estimate + std * v)
