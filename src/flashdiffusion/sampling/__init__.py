"""From a start to a picture: where to start, one step, how to stay consistent with y, the engine."""

from flashdiffusion.sampling.capacity import Capacity, Failure, Limit, in_parts
from flashdiffusion.sampling.engine import Job, Outcome, run
from flashdiffusion.sampling.guided import GMLDPS, PSLD, Gradient, LatentDPS
from flashdiffusion.sampling.problem import Problem
from flashdiffusion.sampling.resample import ReSample
from flashdiffusion.sampling.solver import Solver, StepResult
from flashdiffusion.sampling.start import (
    DDIMInversion,
    EncodedEstimate,
    Fixed,
    FromNoise,
    RegressedEstimate,
    SNRMatch,
    Start,
    StartRule,
)
from flashdiffusion.sampling.transition import Transition

__all__ = [
    "Capacity",
    "DDIMInversion",
    "Failure",
    "EncodedEstimate",
    "Fixed",
    "FromNoise",
    "GMLDPS",
    "Gradient",
    "Job",
    "LatentDPS",
    "Limit",
    "Outcome",
    "PSLD",
    "Problem",
    "ReSample",
    "RegressedEstimate",
    "SNRMatch",
    "Solver",
    "Start",
    "StartRule",
    "StepResult",
    "Transition",
    "in_parts",
    "run",
]
