"""Tasks: distributions that a degradation's parameters are drawn from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.errors import InputError, unknown_name
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd
from flashdiffusion.physics.blur import GaussianBlur
from flashdiffusion.physics.compose import Compose
from flashdiffusion.physics.hdr import HDR
from flashdiffusion.physics.inpainting import BoxInpainting, RandomInpainting
from flashdiffusion.physics.jpeg import JPEG
from flashdiffusion.physics.mixed import Mixed, concatenate
from flashdiffusion.physics.motion_blur import MotionBlur
from flashdiffusion.physics.nonlinear_blur import CameraShake
from flashdiffusion.physics.phase_retrieval import PhaseRetrieval
from flashdiffusion.physics.super_resolution import SuperResolution
from flashdiffusion.seeds import image_generator

Build = Callable[[Tensor, tuple[int, int], torch.Generator, NoiseStd], BatchedPhysics]


@dataclass(frozen=True)
class Task:
    """A degradation with one scalar parameter (std, ratio), the level, drawn from U[low, high] per image.

    `build(levels, size, generator, noise_std)` makes the operator; what else is random in it (a mask) comes
    from the generator. A task with `levels` has these alone, rising: of those in its range each is drawn as likely as
    the others.
    """

    name: str
    physics: str  # name of the operator it builds
    level: str  # name of the parameter, for records
    low: float
    high: float
    build: Build
    default_levels: tuple[float, float]  # range of levels for ordering accuracy
    levels: tuple[float, ...] | None = None  # None: any number

    def draw(
        self, count: int, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd
    ) -> BatchedPhysics:
        """Fresh parameters for `count` images, on the generator's device."""
        unit = torch.rand(count, generator=generator, device=generator.device)
        if self.levels is None:
            level = self.low + (self.high - self.low) * unit
        else:
            inside = [one for one in self.levels if self.low <= one <= self.high]
            level = torch.tensor(inside, device=unit.device)[(unit * len(inside)).long()]
        return self.build(level, size, generator, noise_std)

    def at(
        self, level: float, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd
    ) -> BatchedPhysics:
        """The operator of one image at a given level.

        Raises:
            InputError: a level that the operator refuses or that is none of the task's, or a task without one level.
        """
        self.check_level(self.level, level)
        return self.build(torch.tensor([level]), size, generator, noise_std)

    def check_level(self, name: str, level: float) -> None:
        """Raise InputError, which calls the level by `name`, unless it is one of `levels`, if the task has such."""
        if self.levels is not None and level not in self.levels:
            known = ", ".join(f"{one:g}" for one in self.levels)
            raise InputError(f"{name} is {level:g}; expected one of the levels of task {self.name}: {known}")


@dataclass(frozen=True)
class Mixture:
    """A task that draws, for every image, one of several tasks, each as likely as it is often listed."""

    name: str
    tasks: tuple[Task, ...]
    physics: str = Mixed.name
    level: str | None = None

    def draw(
        self, count: int, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd
    ) -> BatchedPhysics:
        """Fresh operators for `count` images, on the generator's device."""
        kinds = torch.randint(len(self.tasks), (count,), generator=generator, device=generator.device).cpu()
        std = torch.as_tensor(noise_std, dtype=torch.float64, device="cpu").expand(count)
        parts = []
        for kind, task in enumerate(self.tasks):
            rows = (kinds == kind).nonzero()[:, 0]
            if len(rows):
                parts.append((rows, task.draw(len(rows), size, generator, std[rows])))
        return parts[0][1] if len(parts) == 1 else Mixed(parts)

    def at(
        self, level: float, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd
    ) -> BatchedPhysics:
        raise InputError(f"task {self.name} has no level of its own; choose one of its tasks")


def _blur(std: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
    return GaussianBlur(std, noise_std)


def _shake(std: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
    return CameraShake.from_std(std, generator, noise_std)


def _inpaint(ratio: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
    return RandomInpainting.from_ratio(ratio, size, generator, noise_std)


def _box(side: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
    return BoxInpainting.from_side(side, size, generator, noise_std)


def _shrink(factor: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
    return SuperResolution(factor, noise_std)


def _motion(std: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
    return MotionBlur.from_std(std, generator, noise_std)


def _jpeg(
    compression: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd
) -> BatchedPhysics:
    return JPEG(100 - compression, noise_std)


def _phase(k: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
    return PhaseRetrieval(k, noise_std)


def _hdr(scale: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
    return HDR(scale, noise_std)


def _blur_jpeg(std: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
    low, high = _QUALITY
    unit = torch.rand(len(std), generator=generator, device=generator.device).to(std.device)
    return Compose(GaussianBlur(std), JPEG(low + (high - low) * unit, noise_std))


_BLUR = Task("gaussian-blur", GaussianBlur.name, "std", 0.0, 3.0, _blur, (0.0, 3.0))
_FIXED_BLUR = Task("gaussian-blur-fixed", GaussianBlur.name, "std", 3.0, 3.0, _blur, (0.0, 3.0))
_SHAKE = Task("nonlinear-blur", CameraShake.name, "std", 0.5, 3.0, _shake, (0.0, 3.0))
_INPAINTING = Task("random-inpainting", RandomInpainting.name, "ratio", 0.7, 0.8, _inpaint, (0.1, 0.9))
# Few pixels lost as well, so that a severity encoder trained on the mixture knows the whole scale.
_ANY_INPAINTING = Task("random-inpainting-any", RandomInpainting.name, "ratio", 0.0, 0.95, _inpaint, (0.1, 0.9))
_BOX = Task("box-inpainting", BoxInpainting.name, "side", 0.2, 0.5, _box, (0.1, 0.7))
_SUPER_RESOLUTION = Task(
    "super-resolution", SuperResolution.name, "factor", 4.0, 4.0, _shrink, (2.0, 8.0), levels=(2.0, 4.0, 8.0)
)
_MOTION = Task("motion-blur", MotionBlur.name, "std", 0.5, 3.0, _motion, (0.0, 3.0))
_JPEG = Task("jpeg", JPEG.name, "compression", 20.0, 95.0, _jpeg, (10.0, 95.0))  # 100 - quality: larger is worse
_PHASE = Task("phase-retrieval", PhaseRetrieval.name, "oversampling", 2.0, 2.0, _phase, (2.0, 2.0))
_HDR = Task("hdr", HDR.name, "scale", 1.0, 3.0, _hdr, (1.0, 4.0))
_QUALITY = (20.0, 90.0)  # of the JPEG after a blur
_BLUR_JPEG = Task("gaussian-blur+jpeg", Compose.name, "std", 0.0, 3.0, _blur_jpeg, (0.0, 3.0))
# The paper's four degradations.
MIXTURE = Mixture("mixture", (_BLUR, _FIXED_BLUR, _SHAKE, _SHAKE, _INPAINTING, _ANY_INPAINTING, _BLUR))

TASKS: dict[str, Task | Mixture] = {
    task.name: task
    for task in (
        _BLUR,
        _FIXED_BLUR,
        _SHAKE,
        _INPAINTING,
        _ANY_INPAINTING,
        _BOX,
        _SUPER_RESOLUTION,
        _MOTION,
        _JPEG,
        _PHASE,
        _HDR,
        _BLUR_JPEG,
        MIXTURE,
    )
}


def get_task(name: str) -> Task | Mixture:
    """The task of that name.

    Raises:
        InputError: unknown name.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


@dataclass(frozen=True)
class Measurements:
    """Measured images y (B, C, H, W) with the physics that measured them."""

    y: Tensor
    physics: BatchedPhysics


def measure(
    x: Tensor,
    ids: Sequence[str],
    task: Task | Mixture,
    noise_std: float,
    seed: int,
    level: float | None = None,
) -> Measurements:
    """Degrade images x (B, 3, H, W) in [0, 1], each from its own generator of (seed, id).

    Args:
        level: a level for all images in place of drawn ones.

    Raises:
        InputError: another number of ids than images, or a level that the operator refuses.
    """
    if len(ids) != len(x):
        raise InputError(f"{len(ids)} ids for {len(x)} images; expected one per image")
    size = (x.shape[2], x.shape[3])
    parts, ys = [], []
    for i, image_id in enumerate(ids):
        generator = image_generator(seed, image_id)
        if level is None:
            physics = task.draw(1, size, generator, noise_std)
        else:
            physics = task.at(level, size, generator, noise_std)
        ys.append(physics(x[i : i + 1].cpu(), generator))
        parts.append(physics)
    return Measurements(torch.cat(ys).to(x.device), concatenate(parts).to(x.device))
