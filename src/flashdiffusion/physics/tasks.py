"""Tasks: distributions that a degradation's parameters are drawn from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.errors import InputError, unknown_name
from flashdiffusion.physics.base import BatchedPhysics, concatenate
from flashdiffusion.physics.blur import GaussianBlur
from flashdiffusion.physics.inpainting import RandomInpainting
from flashdiffusion.seeds import picture_generator

Build = Callable[[Tensor, tuple[int, int], torch.Generator, float], BatchedPhysics]


@dataclass(frozen=True)
class Task:
    """A degradation with one scalar parameter (std, ratio), the level, drawn from U[low, high] per picture.

    `build(levels, size, generator, noise_std)` makes the operator; what else is random in it (a mask) comes
    from the generator.
    """

    name: str
    physics: str  # name of the operator it builds
    level: str  # name of the parameter, for records
    low: float
    high: float
    build: Build
    default_levels: tuple[float, float]  # range of levels for ordering accuracy

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator, noise_std: float) -> BatchedPhysics:
        """Fresh parameters for `count` pictures, on the generator's device."""
        unit = torch.rand(count, generator=generator, device=generator.device)
        return self.build(self.low + (self.high - self.low) * unit, size, generator, noise_std)


def _blur(std: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: float) -> BatchedPhysics:
    return GaussianBlur(std, noise_std)


def _inpaint(ratio: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: float) -> BatchedPhysics:
    return RandomInpainting.from_ratio(ratio, size, generator, noise_std)


TASKS = {
    task.name: task
    for task in (
        Task("gaussian-blur", GaussianBlur.name, "std", 0.0, 3.0, _blur, (0.0, 3.0)),
        Task("gaussian-blur-fixed", GaussianBlur.name, "std", 3.0, 3.0, _blur, (0.0, 3.0)),
        Task("random-inpainting", RandomInpainting.name, "ratio", 0.7, 0.8, _inpaint, (0.1, 0.9)),
    )
}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: unknown name.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


@dataclass(frozen=True)
class Measurements:
    """Measured pictures y (B, C, H, W) with the physics that measured them."""

    y: Tensor
    physics: BatchedPhysics


def measure(
    x: Tensor,
    ids: Sequence[str],
    task: Task,
    noise_std: float,
    seed: int,
    level: float | None = None,
) -> Measurements:
    """Degrade pictures x (B, 3, H, W) in [0, 1], each from its own generator of (seed, id).

    Args:
        level: a level for all pictures in place of drawn ones.

    Raises:
        InputError: another number of ids than pictures, or a level that the operator refuses.
    """
    if len(ids) != len(x):
        raise InputError(f"{len(ids)} ids for {len(x)} pictures; expected one per picture")
    size = (x.shape[2], x.shape[3])
    parts, ys = [], []
    for i, picture_id in enumerate(ids):
        generator = picture_generator(seed, picture_id)
        if level is None:
            physics = task.draw(1, size, generator, noise_std)
        else:
            physics = task.build(torch.tensor([level]), size, generator, noise_std)
        ys.append(physics(x[i : i + 1].cpu(), generator))
        parts.append(physics)
    return Measurements(torch.cat(ys).to(x.device), concatenate(parts).to(x.device))
