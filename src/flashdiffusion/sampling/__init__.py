"""From a start to a picture: where to start, one step, how to stay consistent with y, the engine."""

from flashdiffusion.sampling.engine import Outcome, run
from flashdiffusion.sampling.guided import LatentDPS, Solver, StepResult
from flashdiffusion.sampling.problem import Problem
from flashdiffusion.sampling.start import Fixed, FromNoise, SNRMatch, Start, StartRule
from flashdiffusion.sampling.transition import Transition

__all__ = [
    "Fixed",
    "FromNoise",
    "LatentDPS",
    "Outcome",
    "Problem",
    "SNRMatch",
    "Solver",
    "Start",
    "StartRule",
    "StepResult",
    "Transition",
    "run",
]
