"""Tasks: distributions that a degradation's parameters are drawn from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.errors import InputError, check_name
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, Size
from flashdiffusion.physics.mixed import Mixed, concatenate
from flashdiffusion.seeds import image_generator


def build(make: Callable[..., BatchedPhysics], **available: Any) -> BatchedPhysics:
    """Call `make` with those of the values that it has arguments for."""
    names = signature(make).parameters
    return make(**{name: value for name, value in available.items() if name in names})


@dataclass(frozen=True)
class Task:
    """A degradation with one scalar parameter (std, ratio), the level, drawn from U[low, high] for each image.

    level: name of the argument of `make` that takes the levels (B,); None for a degradation without a parameter.
    make: builds the operator; it is also given `size` (H, W), `generator` (for whatever else is random, such as a mask)
    and `noise_std` if it has arguments of these names. ordering: range of levels for ordering accuracy. levels: the
    only levels, rising; those from low to high are equally likely; None for any number. physics: name of the operator,
    filled in by its registration.
    """

    name: str
    level: str | None
    low: float
    high: float
    make: Callable[..., BatchedPhysics]
    ordering: tuple[float, float]
    levels: tuple[float, ...] | None = None
    physics: str = ""

    def draw(self, count: int, size: Size, generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
        """Draw parameters for `count` images, on the generator's device."""
        unit = torch.rand(count, generator=generator, device=generator.device)
        if self.levels is None:
            level = self.low + (self.high - self.low) * unit
        else:
            inside = [one for one in self.levels if self.low <= one <= self.high]
            level = torch.tensor(inside, device=unit.device)[(unit * len(inside)).long()]
        return self.build(level, size, generator, noise_std)

    def build(self, level: Tensor, size: Size, generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
        """Build the operator for levels (B,)."""
        named = {self.level: level} if self.level else {}
        operator = build(self.make, **named, size=size, generator=generator, noise_std=noise_std)
        return operator.expand(len(level))

    def at(self, level: float, size: Size, generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
        """Build the operator of one image at a given level.

        Raises:
            InputError: the task has no level, or not this one, or the operator refuses it.
        """
        if self.level is None:
            raise InputError(f"task {self.name} has no level; expected a task with one, or levels of noise")
        self.check_level(self.level, level)
        return self.build(torch.tensor([level]), size, generator, noise_std)

    def check_level(self, name: str, level: float) -> None:
        """Raise InputError, naming the level `name`, if the task has `levels` and this is none of them."""
        if self.levels is not None and level not in self.levels:
            known = ", ".join(f"{one:g}" for one in self.levels)
            raise InputError(f"{name} is {level:g}; expected one of the levels of task {self.name}: {known}")


@dataclass(frozen=True)
class Mixture:
    """A task that draws, for every image, one of several tasks, each as likely as its name is often listed."""

    name: str
    parts: tuple[str, ...]
    physics: str = Mixed.name
    level: str | None = None

    @property
    def tasks(self) -> list[Task]:
        """The tasks of these names."""
        return [task for name in self.parts if isinstance(task := get_task(name), Task)]

    def draw(self, count: int, size: Size, generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
        """Draw operators for `count` images, on the generator's device."""
        kinds = torch.randint(len(self.tasks), (count,), generator=generator, device=generator.device).cpu()
        std = torch.as_tensor(noise_std, dtype=torch.float64, device="cpu").expand(count)
        parts = []
        for kind, task in enumerate(self.tasks):
            rows = (kinds == kind).nonzero()[:, 0]
            if len(rows):
                parts.append((rows, task.draw(len(rows), size, generator, std[rows])))
        return parts[0][1] if len(parts) == 1 else Mixed(parts)

    def at(self, level: float, size: Size, generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
        raise InputError(f"task {self.name} has no level of its own; choose one of its tasks")


TASKS: dict[str, Task | Mixture] = {}


def register_task(task: Task | Mixture) -> None:
    """Register a task by its name; raises InputError if it is taken."""
    if task.name in TASKS and TASKS[task.name].physics != task.physics:
        raise InputError(f"the task {task.name!r} is taken by {TASKS[task.name].physics}; choose another name")
    TASKS[task.name] = task


def get_task(name: str) -> Task | Mixture:
    """Return the task of this name; raises InputError if there is none."""
    check_name("task", name, TASKS, "docs/degradations.md")
    return TASKS[name]


# The paper's four degradations. Inpainting also with few pixels lost, so that a severity encoder trained on the mixture
# knows the whole scale.
_PARTS = "gaussian-blur gaussian-blur-fixed nonlinear-blur nonlinear-blur random-inpainting random-inpainting-any"
register_task(Mixture("mixture", (*_PARTS.split(), "gaussian-blur")))
# With what a pen or a pair of scissors takes away, and with noise alone, the mildest that there is.
_HOLES = ("box-inpainting", "scribble")
register_task(Mixture("mixture-and-holes", (*_PARTS.split(), "gaussian-blur", "denoising", *_HOLES)))
# What happens to photographs.
_EVERYDAY = ("gaussian-blur", "motion-blur", "defocus", "scribble", "denoising", "camera-noise")
_OFTEN = ("gaussian-blur", "random-inpainting-any", "random-inpainting-any")
_SMALLER = tuple(f"super-resolution-{factor}" for factor in (2, 3, 4))
register_task(Mixture("photographs", (*_EVERYDAY, *_OFTEN, *_SMALLER, "jpeg")))


@dataclass(frozen=True)
class Measurements:
    """Measured images y (B, C, H, W) with the physics that measured them."""

    y: Tensor
    physics: BatchedPhysics


def measure(
    x: Tensor, ids: Sequence[str], task: Task | Mixture, noise_std: float, seed: int, level: float | None = None
) -> Measurements:
    """Degrade images x (B, 3, H, W) in [0, 1], each from its own generator of (seed, id), at `level` or a drawn one.

    Raises:
        InputError: another number of ids than images, a level that the operator refuses, or measurements of several
            shapes, as a mixture with super-resolution draws them.
    """
    if len(ids) != len(x):
        raise InputError(f"{len(ids)} ids for {len(x)} images; expected one per image")
    size = (x.shape[2], x.shape[3])
    parts, ys = [], []
    for i, image_id in enumerate(ids):
        generator = image_generator(seed, image_id)
        given = (size, generator, noise_std)
        physics = task.draw(1, *given) if level is None else task.at(level, *given)
        ys.append(physics(x[i : i + 1].cpu(), generator))
        parts.append(physics)
    if len(shapes := {tuple(y.shape[1:]) for y in ys}) > 1:
        raise InputError(f"task {task.name} drew measurements of shapes {sorted(shapes)}; expected one shape together")
    return Measurements(torch.cat(ys).to(x.device), concatenate(parts).to(x.device))
