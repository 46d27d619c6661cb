"""Many images: a job that any process can open, run here or by the workers of a Ray cluster."""

from flashdiffusion.jobs.evaluate import EvaluateJob
from flashdiffusion.jobs.job import Item, Job, ModelChoice, Worker, run_local
from flashdiffusion.jobs.ray import run_on_ray
from flashdiffusion.jobs.restore import RestoreJob

__all__ = [
    "EvaluateJob",
    "Item",
    "Job",
    "ModelChoice",
    "RestoreJob",
    "Worker",
    "run_local",
    "run_on_ray",
]
