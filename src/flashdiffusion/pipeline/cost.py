"""Arithmetic of a restored picture: its start, the solver's units it ran, the last decode."""

from collections.abc import Callable

import torch

from flashdiffusion.metrics import count_gflop
from flashdiffusion.physics import BatchedPhysics
from flashdiffusion.priors import LatentPrior
from flashdiffusion.sampling import Outcome, StartRule
from flashdiffusion.severity import SeverityEncoder
from flashdiffusion.types import Physics


class Costs:
    """GFLOP per picture; each kind of call is counted once per kind of picture.

    Args:
        prior: what every solver calls.
        encoder: the severity encoder, if there is one.
    """

    def __init__(self, prior: LatentPrior, encoder: SeverityEncoder | None) -> None:
        self.prior, self.encoder = prior, encoder
        self._counted: dict[tuple[object, ...], float] = {}

    @torch.no_grad()
    def gflop(self, outcome: Outcome, rule: StartRule, inverted: int | None) -> float:
        """What a picture took; `inverted`: denoiser evaluations of its start, None if the rule makes none."""
        job = outcome.job
        z = job.z[None]
        one = job.problem.take(torch.tensor([job.row], device=z.device))
        picture = one.picture()
        kind = (type(rule), job.solver.name, kind_of(one.physics), one.y.shape, picture.shape)
        total = self._of(("last decode", z.shape), lambda: self.prior.decode(z))
        if inverted is None:
            total += self._of(("start", *kind), lambda: rule(picture, self.prior, job.solver.grid, z))
        else:  # how far an inversion runs differs from picture to picture
            i = torch.ones(1, dtype=torch.int64, device=z.device)
            total += self._of(("severity", picture.shape), lambda: self.encoder and self.encoder(picture))
            total += inverted * self._of(("denoise", z.shape), lambda: self.prior.denoise(z, i))
        units = job.solver.units(z, one)
        return total + sum(count * self._of((name, *kind), units[name]) for name, count in outcome.work.items())

    def _of(self, key: tuple[object, ...], call: Callable[[], object]) -> float:
        if key not in self._counted:
            self._counted[key] = count_gflop(call)
        return self._counted[key]


def kind_of(physics: Physics) -> object:
    """What the arithmetic of a physics depends on, beside the size: its operators."""
    if isinstance(physics, BatchedPhysics):
        return str(physics.describe()[0]["physics"])
    return type(getattr(physics, "physics", physics))
