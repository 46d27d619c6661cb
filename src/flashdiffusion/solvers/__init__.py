"""The mathematics from a start to an image: where to start, one step, how to stay consistent with y."""

from flashdiffusion.solvers.guided import GMLDPS, PSLD, Gradient, LatentDPS
from flashdiffusion.solvers.problem import Problem
from flashdiffusion.solvers.resample import ReSample
from flashdiffusion.solvers.solver import Solver, StepResult
from flashdiffusion.solvers.start import (
    DDIMInversion,
    EncodedEstimate,
    Fixed,
    FromNoise,
    RegressedEstimate,
    SNRMatch,
    Start,
    StartRule,
)
from flashdiffusion.solvers.transition import Transition

__all__ = [
    "DDIMInversion",
    "EncodedEstimate",
    "Fixed",
    "FromNoise",
    "GMLDPS",
    "Gradient",
    "LatentDPS",
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
]
