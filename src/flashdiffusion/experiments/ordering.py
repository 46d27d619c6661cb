"""Does severity rise with the level of degradation? Ordering accuracy of the severity encoder on a task."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from flashdiffusion.data import PictureDataset
from flashdiffusion.errors import InputError
from flashdiffusion.physics.tasks import Task, measure
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.severity import ordering_accuracy


@dataclass(frozen=True)
class Ordering:
    """Severities of one picture at every level, and their ordering accuracy; or why it could not be read."""

    id: str
    severities: list[float]
    accuracy: float
    failed: str | None = None


def measure_ordering(
    pipeline: FlashPipeline, data: PictureDataset, task: Task, noise_std: float, levels: int, seed: int = 0
) -> Iterator[Ordering]:
    """Each picture at `levels` evenly spaced levels of the task, with fresh noise at each.

    Raises:
        InputError: fewer than two levels.
    """
    values = ordering_levels(task, levels)
    for i, picture_id in enumerate(data.ids):
        _, failed = data.readable([i])
        if failed:
            yield Ordering(picture_id, [], 0.0, failed[0][1])
            continue
        clean = data.batch([i])
        ys = [
            measure(clean, [f"{picture_id}@{n}"], task, noise_std, seed, level=value).y
            for n, value in enumerate(values)
        ]
        severities = pipeline.severity(torch.cat(ys)).var.float().cpu()
        yield Ordering(picture_id, severities.tolist(), float(ordering_accuracy(severities[None])[0]))


def ordering_levels(task: Task, levels: int) -> list[float]:
    """The evenly spaced levels, mildest first.

    Raises:
        InputError: fewer than two levels.
    """
    if levels < 2:
        raise InputError(f"levels is {levels}; expected at least 2")
    low, high = task.default_levels
    return torch.linspace(low, high, levels).tolist()
