"""Data consistency as one small linear least-squares problem around an estimate of known variance."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.least_squares import least_squares
from flashdiffusion.priors import LatentPrior
from flashdiffusion.solvers.derivative import derivative
from flashdiffusion.solvers.problem import Problem, scaled
from flashdiffusion.solvers.registry import setting
from flashdiffusion.solvers.solver import check_weight

Decode = Callable[[Tensor], Tensor]
PIXEL_ITERATIONS = 10  # of conjugate gradients
EXACT_ITERATIONS = 2  # more, through the prior's decoder, after those through its stand-in
LEAST_VARIANCE = 1e-6  # of a place of the latent
# Where neither the measurements nor the decoder are said to err, they are taken to by this much, on the [0, 1] scale.
LEAST_ERROR = 1e-3
LEAST_RATIO = 0.1  # of what the residual says of a severity to what the encoder says
# Times the expected variance up to which what a fit leaves of the measurements is taken for chance.
CHANCE = 1.5
NORMAL_MEDIAN = 0.6745  # of the magnitude of a standard normal number
# Standard deviations: of a severity's logarithm, of what correlated errors add to it, of a mean squared residual.
SEVERITY_SPREAD, SHAPE_SPREAD, RESIDUAL_SPREAD = 0.3, 0.3, 0.05


@dataclass(frozen=True)
class Consistency:
    """Moves estimates towards what was measured, each place as far as its variance allows; see `gauss_newton`.

    Args:
        decoder_error: standard deviation of x - D0(E0(x)) on the [0, 1] scale, at least 0. Measurements are trusted
            that much less, and finished images may differ from what the decoder gives by as much.
        fit_iterations: of conjugate gradients, at least 1. Each is a call of A and of its adjoint, and of the decoder's
            derivative. The more faithful a measurement, the more of them it pays.
        decoder: a stand-in for the prior's decoder in the derivative, the distilled one; None for the prior's own.

    Raises:
        InputError: decoder_error negative or not finite, fit_iterations below 1.
    """

    decoder_error: float = setting(0.028, "Standard deviation of what the decoder cannot show, on the [0, 1] scale.")
    fit_iterations: int = setting(5, "Iterations of conjugate gradients by which latents are fitted to a measurement.")
    decoder: Decode | None = None

    def __post_init__(self) -> None:
        check_weight("decoder_error", self.decoder_error)
        if self.fit_iterations < 1:
            raise InputError(f"fit iterations are {self.fit_iterations}; expected at least 1")

    def latents(self, z: Tensor, variance: Tensor, problem: Problem, prior: LatentPrior, exact: bool = False) -> Tensor:
        """Move latents (B, c, h, w) of this variance at each place, (B, 1, h, w).

        Args:
            exact: whether the prior's own decoder has the last word, whatever stands in for it.
        """
        fit = self._fit(z, variance, problem, prior)
        if not exact or self.decoder is None:
            return fit.value
        return self._fit(z, variance, problem, prior, EXACT_ITERATIONS, fit.v).value

    def tested(
        self, z: Tensor, variance: Tensor, problem: Problem, prior: LatentPrior, inside: Tensor | None = None
    ) -> "Tested":
        """Move latents as `latents` does, and test by the residual whether noise and variance are what they should be.

        What the fit leaves of the measurements has their variance s², if noise and physics are as told: where it has
        more than `CHANCE` allows, s² is raised to it, and the fit made again. If the noise is not known, what is white
        of what is left is taken for it. What the fit took away tells of the error of the latents: the variance is to be
        multiplied with the ratio of it and of what an error of this variance leaves, to a power that is small where
        measurements say little of the latents.

        Args:
            inside: places whose variance is not in question, those of holes, bool (B, 1, h, w).
        """
        fit = self._fit(z, variance, problem, prior)
        # One error is tried for all images, so that a severity depends on y alone.
        error = torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(0)).to(z).expand_as(z)
        error = error if inside is None else error.masked_fill(inside, 0)
        parts = (fit.residual, fit.residual + fit.forward(fit.v), fit.forward(error))
        here, left, tried = (fit.mean_square(part) for part in parts)
        value, excess = fit.value, torch.where(left > CHANCE, left - 1, 0) * fit.entry_variance
        if not problem.noise_known:
            excess = torch.minimum(left, white_variance(parts[1])) * fit.entry_variance
        if len(rows := (excess > 0).nonzero()[:, 0]):
            part = replace(problem.take(rows), excess=excess[rows])
            value[rows] = self.latents(z[rows], variance[rows], part, prior)
        tried = tried.clamp(min=1e-6)
        power = SEVERITY_SPREAD**2 / (SEVERITY_SPREAD**2 + SHAPE_SPREAD**2 + (RESIDUAL_SPREAD / tried).square())
        surprise = (here - left) / tried
        taken = (here - left) * fit.entry_variance
        # A fit that keeps the measured pixels leaves a small residual, however wrong the others are.
        least = 1.0 if prior.invertible else LEAST_RATIO
        return Tested(value, excess, surprise.clamp(min=least) ** power, surprise, left, taken)

    def _fit(
        self,
        z: Tensor,
        variance: Tensor,
        problem: Problem,
        prior: LatentPrior,
        iterations: int | None = None,
        start: Tensor | None = None,
    ) -> "Fit":
        """Fit by the stand-in, from nothing; or by the prior's decoder, from a `start`."""
        stand_in = self.decoder if start is None else None
        return gauss_newton(
            z,
            variance.to(z).clamp(min=LEAST_VARIANCE),
            problem,
            prior.smooth_decode if stand_in is None else stand_in,
            value=prior.decode(z) if stand_in is not None or prior.quantises else None,
            error=self.decoder_error,
            iterations=iterations or self.fit_iterations,
            precision=prior.dtype,
            start=start,
        )

    def pixels(self, x: Tensor, problem: Problem) -> Tensor:
        """Move decoded images (B, 3, H, W): y tells of detail that the decoder cannot show."""
        if self.decoder_error:
            variance = torch.full_like(x[:, :1], self.decoder_error**2)
            x = gauss_newton(x, variance, problem, lambda image: image, iterations=PIXEL_ITERATIONS).value
        return problem.with_exact(x)


def white_variance(residual: Tensor) -> Tensor:
    """Estimate the variance of white noise in residuals, (B,), by the median of their finest diagonal detail.

    It is infinite where they are no images (B, C, H, W) of at least 2 pixels a side.
    """
    if residual.ndim != 4 or min(residual.shape[2:]) < 2:
        return torch.full_like(residual.flatten(1)[:, 0], torch.inf)
    detail = residual.diff(dim=2).diff(dim=3)[:, :, ::2, ::2] / 2
    return (detail.flatten(1).abs().median(dim=1).values / NORMAL_MEDIAN).square()


@dataclass(frozen=True)
class Tested:
    """z: latents (B, c, h, w). excess: what to add to s², (B,). factor: what to multiply variances with, (B,).

    surprise: what the fit took from the mean squared residual, relative to what was expected, (B,). left: what it left,
    in units of s², (B,). taken: what it took, on the scale of `Problem.entry_variance`, (B,).
    """

    z: Tensor
    excess: Tensor
    factor: Tensor
    surprise: Tensor
    left: Tensor
    taken: Tensor


@dataclass(frozen=True)
class Fit:
    """What `gauss_newton` found: u = ū + √C v, and how the measurements speak of it.

    residual: r / s at ū, with the standard deviation s of the measurements. forward: J √C / s. entry_variance: s²,
    (B,). share: part of the entries that was measured, (B,).
    """

    value: Tensor
    v: Tensor
    residual: Tensor
    forward: Callable[[Tensor], Tensor]
    entry_variance: Tensor
    share: Tensor

    def mean_square(self, residual: Tensor) -> Tensor:
        """Give the mean square over the entries that were measured, (B,)."""
        return residual.flatten(1).square().mean(dim=1) / self.share.clamp(min=1e-6)


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
    start: Tensor | None = None,
) -> Fit:
    """Take one Gauss-Newton step from ū of argmin_u ‖A(D(u)) - y‖² / (2 s²) + Σ (u - ū)² / (2 C).

    It is the posterior mode for u ~ N(ū, C) where A(D(u)) is linear. With J the derivative of A(D(u)) and r its
    residual, d = √C v solves (√C Jᵀ J √C / s² + 1) v = -√C Jᵀ r / s² by conjugate gradients. Jᵀ is autograd's; J is a
    forward difference of D, and of A if it is linear. Else A's part of J is autograd's too, as far as it has one: a
    difference would not see what A passes gradients through. Rounding is softened, and counts as noise
    (`BatchedPhysics.softened`, `BatchedPhysics.discounted`).

    Args:
        estimate: ū, latents or images (B, ...).
        variance: C > 0, broadcast to the estimate.
        decode: D, to images (B, 3, H, W) on the [0, 1] scale, for J.
        value: D(ū) for r, where `decode` only stands in for D.
        error: standard deviation of D on the [0, 1] scale; s² is σ_y², its square, and `problem.excess`.
        iterations: of conjugate gradients.
        precision: in which `decode` computes.
        start: v to begin with, the shape of the estimate; 0 if not given.

    Raises:
        InputError: the physics, or its derivative, fails.
    """
    told = problem.entry_variance if problem.excess is None else problem.entry_variance + problem.excess
    entry_variance = (told + 4 * error**2).clamp(min=4 * LEAST_ERROR**2)
    weight = entry_variance.rsqrt()

    def whitened(r: Tensor) -> Tensor:
        return problem.discounted(scaled(weight, r), entry_variance)

    with torch.enable_grad():
        at = estimate.detach().requires_grad_()
        shown = decode(at)
        here = whitened(problem.soft_residual(shown))
    base = here.detach()
    measured = None if problem.linear else derivative(problem, shown)
    residual = base if value is None else whitened(problem.soft_residual(value))
    std = variance.sqrt().expand_as(estimate)
    # Where rounding and curvature both cost little. The derivative of Jᵀ would be exact, for a third more arithmetic.
    step = 30 * torch.finfo(precision).eps ** 0.5

    @torch.no_grad()
    def forward(v: Tensor) -> Tensor:
        size = step / (std * v).flatten(1).abs().amax(dim=1).clamp(min=1e-12)
        moved = decode(estimate + scaled(size, std * v))
        if measured is not None:
            return whitened(scaled(1 / size, measured(moved - shown)))
        return scaled(1 / size, whitened(problem.soft_residual(moved)) - base)

    def backward(q: Tensor) -> Tensor:
        return std * problem.gradient(here, at, q)

    nothing = torch.zeros_like(estimate)
    begin, seen = (nothing, torch.zeros_like(residual)) if start is None else (start, None)
    v = least_squares(forward, backward, -residual, iterations, begin, proximal=1.0, anchor=nothing, seen=seen)
    # What is not finite here has no solution, and its image is to fail.
    lost = ~residual.flatten(1).isfinite().all(dim=1)
    value = torch.where(lost.view(-1, *[1] * (estimate.ndim - 1)), torch.nan, estimate + std * v)
    return Fit(value, v, residual, forward, entry_variance, problem.measured_share)
