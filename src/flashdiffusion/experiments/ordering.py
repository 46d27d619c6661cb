"""Does severity rise with the degradation? Ordering accuracy of the severity encoder on a task."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError, check_name
from flashdiffusion.physics.mixed import concatenate
from flashdiffusion.physics.tasks import Measurements, Mixture, Task, measure
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.seeds import image_generator
from flashdiffusion.severity import Severity, ordering_accuracy

# What rises from one measurement to the next.
OVER = ("level", "noise")
NOISE_LEVELS = (0.0, 0.2)
LEVELS = 10
BATCH = 16  # images that are measured together
_SIZE = (64, 64)  # of an image to try levels on


@dataclass(frozen=True)
class Ordering:
    """Severities of one image at every level, and their ordering accuracy; or why it could not be read."""

    id: str
    severities: list[float]
    accuracy: float
    failed: str | None = None


def measure_ordering(
    pipeline: FlashPipeline,
    data: ImageDataset,
    task: Task | Mixture,
    noise_std: float,
    values: list[float],
    seed: int = 0,
    over: str = "level",
    blind: bool = False,
) -> Iterator[Ordering]:
    """Each image at every one of `values`, with fresh noise at each.

    Args:
        values: what `ordering_values` gives.
        over: "level": the task's level is varied, at `noise_std`. "noise": σ_y is varied, the image's operator is
            drawn from the task once.
        blind: whether the encoder sees the measurement alone, and is told nothing of its physics.
    """
    for rows, clean, failed in data.batches(range(len(data)), BATCH):
        yield from (Ordering(data.ids[i], [], 0.0, reason) for i, reason in failed.items())
        if not rows:
            continue
        ids, found = [data.ids[i] for i in rows], []
        for n, value in enumerate(values):
            names = [f"{image_id}@{n}" for image_id in ids]
            if over == "level":
                measured = measure(clean, names, task, noise_std, seed, level=value)
            else:
                measured = _with_noise(clean, ids, names, task, value, seed)
            found.append(severity_of(pipeline, measured, blind).var.float().cpu())
        severities = torch.stack(found, dim=1)
        accuracies = ordering_accuracy(severities).tolist()
        yield from map(Ordering, ids, severities.tolist(), accuracies)


def severity_of(pipeline: FlashPipeline, measured: Measurements, blind: bool) -> Severity:
    """What the encoder says of measurements, told of their physics unless `blind`."""
    y, physics = measured.y, measured.physics
    return pipeline.severity(physics.image(y)) if blind else pipeline.severity(y, physics)


def _with_noise(
    clean: Tensor, ids: Sequence[str], names: Sequence[str], task: Task | Mixture, std: float, seed: int
) -> Measurements:
    """Each image by its own operator, the same for every noise level, with noise of its own at each."""
    size = (clean.shape[2], clean.shape[3])
    each = [task.draw(1, size, image_generator(seed, image_id), std) for image_id in ids]
    ys = [one(clean[n : n + 1], image_generator(seed, names[n])) for n, one in enumerate(each)]
    return Measurements(torch.cat(ys), concatenate(each))


def summarise(rows: Sequence[Ordering], values: Sequence[float], varied: str) -> dict[str, Any]:
    """Ordering accuracy over images, and the mean severity at each level.

    Args:
        values: what `measure_ordering` was given.
        varied: what they are called.
    """
    severities = torch.tensor([row.severities for row in rows]).mean(dim=0).tolist()
    return {
        "ordering_accuracy": round(sum(row.accuracy for row in rows) / len(rows), 5),
        "levels": [{varied: v, "mean_severity": m} for v, m in zip(values, severities, strict=True)],
        "records": [{"id": r.id, "accuracy": r.accuracy, "severities": r.severities} for r in rows],
    }


def level_name(task: Task | Mixture, over: str) -> str:
    """What the levels are called."""
    return str(task.level) if over == "level" else "noise_std"


def ordering_values(
    task: Task | Mixture,
    levels: int = LEVELS,
    over: str = "level",
    low: float | None = None,
    high: float | None = None,
    noise_std: float = 0.0,
) -> list[float]:
    """Evenly spaced levels of the task or of noise, mildest first; of a task with levels of its own, exactly these.

    Args:
        levels: how many; a task with levels of its own may have another number of them.
        low, high: their range; by default the task's, or 0 to 0.2 for noise.
        noise_std: σ_y that the levels will be measured with.

    Raises:
        InputError: fewer than two levels, an empty range, a task with no level or one alone, levels or noise that
            cannot be.
    """
    check_name("ordering", over, OVER)
    if levels < 2:
        raise InputError(f"levels is {levels}; expected at least 2")
    if over == "level" and task.level is None:
        raise InputError(f"task {task.name} has no level of its own; choose a task that has one, or --over noise")
    varied = task if over == "level" and isinstance(task, Task) else None
    default = NOISE_LEVELS if varied is None else varied.ordering
    if varied is not None and default[0] == default[1] and low is None and high is None:
        raise InputError(
            f"task {varied.name} has one level only, {varied.level} {default[0]:g}, so there is nothing to order; "
            "vary its noise with --over noise"
        )
    first, last = default[0] if low is None else low, default[1] if high is None else high
    if varied is not None:
        check_noise("noise std", noise_std)
    for name, value in (("low", first), ("high", last)):
        if varied is not None:
            _check_level(varied, name, value)
        else:
            check_noise(name, value)
    if not first < last:
        raise InputError(f"levels from {first:g} to {last:g}; expected a rising range")
    if varied is not None and varied.levels is not None:
        return [level for level in varied.levels if first <= level <= last]
    return torch.linspace(first, last, levels).tolist()


def _check_level(task: Task, name: str, level: float) -> None:
    """Raise InputError, which names the level as given, if the task's operator refuses it for any image."""
    task.check_level(name, level)
    try:
        task.at(level, _SIZE, torch.Generator().manual_seed(0), 0.0)
    except InputError as error:
        raise InputError(
            f"{name} is {level:g}, a level ({task.level}) that task {task.name} refuses: {error}"
        ) from error


def check_noise(name: str, std: float) -> None:
    """Raise InputError, which names it as given, for what is no noise standard deviation."""
    if not 0 <= std < math.inf:
        raise InputError(f"{name} is {std:g}; expected a noise standard deviation, a finite number >= 0")
