"""Accelerator and optimizers of a training run."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from flashdiffusion.errors import InputError, note
from flashdiffusion.priors.precision import is_fast
from flashdiffusion.training.config import Recipe
from flashdiffusion.training.stage import Stage

PRECISIONS = ("no", "bf16")


def make_accelerator(recipe: Recipe, several: bool) -> Accelerator:
    """Make what deals out the work, in the recipe's precision, or float32 where the processor lacks it.

    Args:
        several: whether a step trains one module of several, and leaves the others alone.
    """
    if recipe.precision not in PRECISIONS:
        raise InputError(f"precision is {recipe.precision!r}; expected {' or '.join(PRECISIONS)}")
    AcceleratorState._reset_state()  # accelerate keeps the first run's precision for the whole process
    precision = recipe.precision
    if precision == "bf16" and not torch.cuda.is_available() and not is_fast(torch.bfloat16, torch.device("cpu")):
        note("this processor has no bfloat16 instructions and would take far longer; float32 is used")
        precision = "no"
    unused = DistributedDataParallelKwargs(find_unused_parameters=several)
    return Accelerator(mixed_precision=precision, kwargs_handlers=[unused])


def make_optimizers(stage: Stage) -> dict[str, torch.optim.Optimizer]:
    """One for each phase of a step."""
    loop = stage.config.loop
    options: dict[str, Any] = {"lr": loop.lr, "betas": (0.9, 0.99), "weight_decay": loop.weight_decay}
    options["fused"] = next(stage.parameters()).is_cuda or None
    return {phase: torch.optim.AdamW(module.parameters(), **options) for phase, module in stage.trainable().items()}
