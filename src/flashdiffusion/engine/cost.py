"""Arithmetic of a restored image: its start, the solver's units it ran, the last decode."""

from collections.abc import Callable, Mapping
from functools import partial

import torch

from flashdiffusion.engine.slots import Outcome
from flashdiffusion.errors import FlashDiffusionError
from flashdiffusion.metrics import count_gflop
from flashdiffusion.physics import BatchedPhysics
from flashdiffusion.priors import LatentPrior
from flashdiffusion.severity import SeverityEncoder
from flashdiffusion.solvers import Problem, StartRule
from flashdiffusion.types import Physics


class Costs:
    """GFLOP per image; each kind of call is counted once per kind of image.

    Args:
        prior: what every solver calls.
        encoder: the severity encoder, if there is one.
    """

    def __init__(self, prior: LatentPrior, encoder: SeverityEncoder | None) -> None:
        self.prior, self.encoder = prior, encoder
        self._counted: dict[tuple[object, ...], float] = {}

    @torch.no_grad()
    def gflop(self, outcome: Outcome, rule: StartRule, operators: object, inverted: int | None) -> float:
        """What an image took.

        Args:
            operators: what its physics is (`operators_of`).
            inverted: denoiser evaluations of its start, None if the rule makes none.
        """
        job, solver = outcome.job, outcome.job.solver
        z = job.z[None]
        kind = (type(rule), type(getattr(rule, "estimate", None)), operators, job.problem.y.shape[1:], z.shape)

        def one() -> Problem:
            return job.problem.take(torch.tensor([job.row]))

        total = self._of(("last decode", z.shape), lambda: self.prior.decode(z))
        if inverted is None:
            total += self._of(("start", *kind), lambda: rule(one(), self.prior, solver.grid, z))
        else:  # how far an inversion runs differs from image to image
            i = torch.ones(1, dtype=torch.int64, device=z.device)
            total += self._of(("severity", *kind), lambda: self.encoder and self.encoder(one().image))
            total += inverted * self._of(("denoise", z.shape), lambda: self.prior.denoise(z, i))
        for name, count in outcome.work.items():
            total += count * self._of((name, *kind), partial(_call, name, lambda: solver.units(z, one())))
        return total

    def _of(self, key: tuple[object, ...], call: Callable[[], object]) -> float:
        if key not in self._counted:
            try:
                self._counted[key] = count_gflop(call)
            except FlashDiffusionError:  # a physics that fails now and then costs a figure, not the image
                return float("nan")
        return self._counted[key]


def _call(name: str, units: Callable[[], Mapping[str, Callable[[], object]]]) -> object:
    return units()[name]()


def operators_of(physics: Physics, count: int) -> list[object]:
    """What the arithmetic depends on, beside the size, for each of the `count` images: its operators."""
    if isinstance(physics, BatchedPhysics):
        return [str(described["physics"]) for described in physics.describe()]
    return [type(getattr(physics, "physics", physics))] * count
