"""Degradations: one file per family of operators; `tasks.py` draws their parameters."""

from flashdiffusion.physics.base import BatchedPhysics
from flashdiffusion.physics.blur import GaussianBlur
from flashdiffusion.physics.foreign import WithParams
from flashdiffusion.physics.inpainting import RandomInpainting
from flashdiffusion.physics.parse import parse_physics
from flashdiffusion.physics.tasks import TASKS, Task, get_task

# Operators by the name that measurement files carry.
OPERATORS: dict[str, type[BatchedPhysics]] = {cls.name: cls for cls in (GaussianBlur, RandomInpainting)}

__all__ = [
    "OPERATORS",
    "TASKS",
    "BatchedPhysics",
    "GaussianBlur",
    "RandomInpainting",
    "Task",
    "WithParams",
    "get_task",
    "parse_physics",
]
