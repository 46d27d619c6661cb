"""Many pictures: a job that any process can open, run here or by the workers of a Ray cluster."""

from flashdiffusion.scale.evaluate import EvaluateJob
from flashdiffusion.scale.job import Done, Item, Job, ModelChoice, Worker
from flashdiffusion.scale.local import run_local
from flashdiffusion.scale.ray import run_on_ray
from flashdiffusion.scale.restore import RestoreJob

__all__ = [
    "Done",
    "EvaluateJob",
    "Item",
    "Job",
    "ModelChoice",
    "RestoreJob",
    "Worker",
    "run_local",
    "run_on_ray",
]
