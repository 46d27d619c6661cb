"""Severity and estimate of a problem: the severity encoder's, with holes, and tested by the residual."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.priors import LatentPrior
from flashdiffusion.severity import Severity, SeverityEncoder
from flashdiffusion.solvers.consistency import Consistency
from flashdiffusion.solvers.operator_check import Check, find_mismatch
from flashdiffusion.solvers.problem import Problem

# Standard deviation of the latent error by which it is tried what residual an error leaves.
PROBE = 0.1
REFITTED, LOOKED_AT, CORRECTED, REFITTED_AGAIN = 1, 2, 4, 8  # what `Estimated.work` is the sum of


@dataclass(frozen=True)
class Estimated:
    """What is known of a problem before its first step; `Start` has the same fields and says what they are."""

    severity: Severity
    excess: Tensor | None = None
    mismatch: Tensor | None = None
    work: Tensor | None = None


def estimated(
    problem: Problem,
    encoder: SeverityEncoder,
    prior: LatentPrior,
    noise: Tensor,
    inside: Tensor | None,
    consistency: Consistency | None = None,
    correct_physics: bool = False,
) -> Estimated:
    """Estimate the latents of a problem, and the severity.

    Args:
        noise: standard normal, the shape of the latents.
        inside: places that lie in holes, see `in_holes`.
        consistency: makes the estimate consistent with y, and tests noise and map by that; None leaves it out.
        correct_physics: whether A is tested too, and corrected if it fails.
    """
    severity = with_holes(explained(problem.severity(encoder), problem, prior, noise), inside)
    if consistency is None:
        return Estimated(severity)
    tested = consistency.tested(severity.z_hat, severity.map, problem, prior, inside)
    check = Check.none(problem)
    if correct_physics:
        check = find_mismatch(problem, severity, tested, encoder, prior)
    severity, excess = scaled_by(replace(severity, z_hat=tested.z), tested.factor, inside), tested.excess
    work = REFITTED * (excess > 0) + LOOKED_AT * check.looked_at
    if check.mismatch is not None:
        rows = check.mismatch.any(dim=1).nonzero()[:, 0]
        part = replace(problem.take(rows), mismatch=check.mismatch[rows])
        again = part.severity(encoder)
        tested = consistency.tested(again.z_hat, again.map, part, prior)
        severity = severity.updated(rows, scaled_by(replace(again, z_hat=tested.z), tested.factor))
        excess = excess.index_copy(0, rows, tested.excess)
        work[rows] += CORRECTED + REFITTED_AGAIN * (tested.excess > 0)
    return Estimated(severity, excess, check.mismatch, work)


def scaled_by(severity: Severity, factor: Tensor, inside: Tensor | None = None) -> Severity:
    """Multiply variances with a factor (B,), but not those inside holes, bool (B, 1, h, w)."""
    logs = severity.log_var_map
    if logs is not None:
        added = factor.log().view(-1, 1, 1).to(logs).expand_as(logs)
        logs = logs + (added if inside is None else added.masked_fill(inside[:, 0], 0))
    severity = replace(severity, var=severity.var * factor.to(severity.var), log_var_map=logs)
    return severity if inside is None else _averaged(severity, inside)


def _averaged(severity: Severity, inside: Tensor) -> Severity:
    """Give σ̂² as the mean of the map again, of images with holes alone: others keep it to the last digit."""
    holed = inside.flatten(1).any(dim=1)
    return replace(severity, var=torch.where(holed, severity.map.mean(dim=(1, 2, 3)), severity.var))


def explained(severity: Severity, problem: Problem, prior: LatentPrior, noise: Tensor) -> Severity:
    """Raise the severity to at least the variance of an error in ẑ that would leave the residual of `problem.image`.

    Only where that is an estimate by least squares (`Problem.guessed`), whose damages the encoder was not trained on:
    an estimate that explains y may start low, another may not, whatever it looks like.

    Args:
        noise: standard normal, the shape of the latents: the error that is tried.
    """
    rows = problem.guessed.nonzero()[:, 0]
    if not len(rows):
        return severity
    part, z_hat = problem.take(rows), severity.z_hat[rows]
    left = part.residual(part.image).flatten(1).square().mean(dim=1) - part.residual_variance
    here, moved = (part.residual(prior.decode(z)).flatten(1) for z in (z_hat, z_hat + PROBE * noise[rows]))
    of_unit_error = (moved - here).square().mean(dim=1) / PROBE**2
    factor = torch.ones_like(severity.var)
    factor[rows] = (left / of_unit_error.clamp(min=1e-12)).to(factor) / severity.var[rows]
    return scaled_by(severity, factor.clamp(min=1))


def in_holes(problem: Problem, size: tuple[int, int]) -> Tensor | None:
    """Tell which places of latents of this height and width lie in holes, bool (B, 1, h, w); None if there are none."""
    if problem.holes is None:
        return None
    share = F.adaptive_avg_pool2d(problem.for_network(problem.holes.float()), size)
    return F.max_pool2d((share > 0).float(), 3, stride=1, padding=1) > 0  # and what the decoder mixes with them


def with_holes(severity: Severity, inside: Tensor | None) -> Severity:
    """Raise the map to the prior's variance, 1, inside holes."""
    if inside is None:
        return severity
    logs = severity.map.log()[:, 0] if severity.log_var_map is None else severity.log_var_map
    return _averaged(replace(severity, log_var_map=torch.where(inside[:, 0], logs.clamp(min=0.0), logs)), inside)


def starting_variance(severity: Severity, inside: Tensor | None) -> Tensor:
    """Give the variance to start by, (B,): σ̂², but at least 1 where there is a hole, so that it starts from noise."""
    if inside is None:
        return severity.var
    return torch.where(inside.flatten(1).any(dim=1), severity.var.clamp(min=1.0), severity.var)
