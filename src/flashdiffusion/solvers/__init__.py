"""The mathematics from a start to an image: where to start, one step, how to stay consistent with y."""

from importlib import import_module
from pkgutil import iter_modules

from flashdiffusion.solvers.consistency import Consistency
from flashdiffusion.solvers.guided import GMLDPS, PSLD, Gradient, Guided, LatentDPS
from flashdiffusion.solvers.problem import Problem
from flashdiffusion.solvers.proximal import Proximal
from flashdiffusion.solvers.registry import Networks, part, register_solver, register_start, setting
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
    "Consistency",
    "DDIMInversion",
    "EncodedEstimate",
    "Fixed",
    "FromNoise",
    "GMLDPS",
    "Guided",
    "Gradient",
    "LatentDPS",
    "Networks",
    "PSLD",
    "Problem",
    "Proximal",
    "ReSample",
    "RegressedEstimate",
    "SNRMatch",
    "Solver",
    "Start",
    "StartRule",
    "StepResult",
    "Transition",
    "part",
    "register_solver",
    "register_start",
    "setting",
]

# Every file of this folder is read, so that one which registers something need not be named anywhere.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
