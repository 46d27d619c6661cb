"""Is the operator what it is said to be? The severity encoder's estimate tells."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flashdiffusion.priors import LatentPrior
from flashdiffusion.severity import Conditions, Severity, SeverityEncoder
from flashdiffusion.solvers.consistency import CHANCE, Tested
from flashdiffusion.solvers.mismatch import LEAST_SIDE, mismatch_of, mismatched
from flashdiffusion.solvers.problem import Problem

SURPRISE = 1.6  # times the error that the encoder's map explains beyond which the operator is doubted
# Part of what the fit took from the residual that blurs of the estimate explain too, if the operator is at fault. What
# the fit left is taken for noise.
EXPLAINED = 0.6


@dataclass(frozen=True)
class Check:
    """mismatch: weights (B, J) as in `mismatch.py`, 0 where A is believed; None if it is everywhere.

    looked_at: which images were looked at closely, bool (B,).
    """

    mismatch: Tensor | None
    looked_at: Tensor

    @classmethod
    def none(cls, problem: Problem) -> "Check":
        """Give that of a problem whose A nobody looked at."""
        return cls(None, torch.zeros(len(problem), dtype=torch.bool, device=problem.y.device))


def find_mismatch(
    problem: Problem, severity: Severity, tested: Tested, encoder: SeverityEncoder, prior: LatentPrior
) -> Check:
    """Find by which blurs A is to be corrected.

    An error of the estimate ẑ is detail that it lacks, which no blur of D(ẑ) gives; an error of A is made of them. So A
    is doubted where the residual is more than the map explains and blurs of D(ẑ) explain most of it. Beyond what the
    encoder was trained on, ẑ is too smooth, and they explain part of its error too. There an encoder that is told of
    the degradation raises its severity, and the map counts for more by as much as telling raised it. One that cannot be
    told, of a physics that is not the library's say, lets a right operator be doubted there.

    An A that gives what blurs cannot correct, measurements of another shape than the image or of a part of it, is
    believed. So is one whose correction would let more through than there is: nothing is sharper than the image itself,
    so where A blurs little it is ẑ that is too smooth.

    Args:
        severity: of the measurements.
        tested: what `Consistency.tested` found of it.
    """
    image = problem.image
    if problem.y.shape != image.shape or min(image.shape[2:]) < LEAST_SIDE:
        return Check.none(problem)
    whole = (problem.measured_share == 1) & ~problem.guessed
    looked_at = whole & (tested.surprise > 1) & (tested.left <= CHANCE)
    rows = looked_at.nonzero()[:, 0]
    if not len(rows):
        return Check(None, looked_at)
    part = problem.take(rows)
    x = part.cropped(prior.decode(severity.z_hat[rows]))
    missing = part.y - part.measure(x)
    weights = mismatch_of(x, missing)
    energy, after = (e.flatten(1).square().mean(dim=1) for e in (missing, missing - mismatched(x, weights)))
    shown = part.for_network(part.filled)
    blind = encoder(shown, Conditions.none(shown)).var
    surprise = tested.surprise[rows] * (blind / severity.var[rows])
    wrong = (4 * (energy - after) > EXPLAINED * tested.taken[rows]) & (surprise > SURPRISE)
    wrong &= replace(part, mismatch=weights).gain <= 1
    if not bool(wrong.any()):
        return Check(None, looked_at)
    found = weights.new_zeros(len(problem), weights.shape[1])
    found[rows] = torch.where(wrong[:, None], weights, 0)
    return Check(found, looked_at)
