"""Measurements in, one restored image out."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from flashdiffusion.engine.cancellation import Cancellation
from flashdiffusion.engine.tiling import TileMap
from flashdiffusion.errors import InputError
from flashdiffusion.methods import Settings
from flashdiffusion.physics import flattened
from flashdiffusion.physics.operator import as_physics
from flashdiffusion.solvers import Problem
from flashdiffusion.types import Physics

# What is known of a restored image, as plain values.
FIGURES = ("severity", "start_step", "nfe", "gflop", "seconds", "physics_corrected")


@dataclass(frozen=True)
class Batch:
    """Measurements y (B, ...) on the [0, 1] scale that came together: their names and their physics.

    settings: hyperparameters for them; None leaves the choice to the pipeline. extra: anything of each image that
    its result is to carry. samples: how many results each is to have; they share one pass of the severity encoder,
    and none starts if one cannot. kept: a folder for each image, None for none: if it is restored in tiles, as one
    sample, those that are done are written there, and those that are there already are not made again. What else a
    result depends on is the caller's to compare. method, seed: of these images, in place of the stream's own.
    cancellations: for each image by what it may be given up, None for nothing.

    Raises:
        InputError: another number of names, extras, or the physics' parameters, than measurements.
    """

    ids: Sequence[str]
    y: Tensor
    physics: Physics
    settings: Settings | None = None
    extra: Sequence[Any] | None = None
    samples: int = 1
    kept: Sequence[str | Path | None] | None = None
    method: str | None = None
    seed: int | None = None
    cancellations: Sequence[Cancellation | None] | None = None

    def __post_init__(self) -> None:
        for name, value in zip(("y", "physics"), flattened(self.y, self.physics), strict=True):
            object.__setattr__(self, name, value)
        if len(self.y) == 0:
            raise InputError(f"measurements of shape {tuple(self.y.shape)}; expected at least one image")
        each = {"ids": self.ids, "extras": self.extra, "folders of kept tiles": self.kept}
        for name, given in (each | {"cancellations": self.cancellations}).items():
            if given is not None and len(given) != len(self.y):
                raise InputError(f"{len(given)} {name} for {len(self.y)} images; expected one per image")
        object.__setattr__(self, "physics", as_physics(self.physics, self.y))
        if self.samples < 1:
            raise InputError(f"{self.samples} samples of each image; expected at least 1")
        self.problem.check_length()

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        problem: Problem,
        settings: Settings | None = None,
        extra: Sequence[Any] | None = None,
        **more: Any,
    ) -> Self:
        """Make a batch of a problem, with more of its fields by name, and keep what is known of it."""
        batch = cls(ids, problem.y, problem.physics, settings, extra, **more)
        if batch.physics is problem.physics:  # else it was expanded to the batch
            batch.__dict__["problem"] = problem
        return batch

    @cached_property
    def problem(self) -> Problem:
        """The measurements with their physics."""
        return Problem(self.y, self.physics)

    def cancellation(self, row: int) -> Cancellation | None:
        """By what a row may be given up."""
        return None if self.cancellations is None else self.cancellations[row]

    def result(self, row: int, first: int, sample: int, failed: str | None = None) -> "Restored":
        """Begin the result of a sample of a row, where the batch's first image is the `first` of all.

        The first sample has the image's own name.
        """
        name = self.ids[row] if sample == 0 else f"{self.ids[row]}#{sample}"
        extra = None if self.extra is None else self.extra[row]
        index = first + sample * len(self.y) + row
        return Restored(index, name, failed=failed, extra=extra, samples=self.samples)


@dataclass(frozen=True)
class Failed:
    """An input of which there is no measurement; a stream gives it back as a failure, in its place."""

    id: str
    reason: str
    extra: Any = None


@dataclass
class Restored:
    """One image as it leaves a stream.

    index: its place among all that went in. image: float32 (3, H, W) in [0, 1] on the CPU, None if there is none.
    severity: σ̂² in scaled latent units, None if no severity encoder was used. severity_map: the variance at each place
    of the latent, float32 (h, w) on the CPU, None without severity; its mean is the severity, unless the image was
    padded. start_step: time of its start on the full schedule, 0 (clean) to N (noise), whatever the grid. nfe: denoiser
    evaluations run. gflop: arithmetic spent. seconds: its share of the wall-clock time of the calls it took part in.
    physics_corrected: whether the physics did not explain the measurement, and was corrected by blurs
    (`solvers/operator_check.py`). failed: why there is no image; its arithmetic is not counted. extra: what its batch
    said.
    tiles: what is known of each, if it was restored in tiles; nfe and start_step are then means over them, by area.
    samples: how many results its image has.
    """

    index: int
    id: str
    image: Tensor | None = None
    severity: float | None = None
    severity_map: Tensor | None = None
    start_step: int = 0
    nfe: float = 0
    gflop: float = 0.0
    seconds: float = 0.0
    physics_corrected: bool = False
    failed: str | None = None
    extra: Any = None
    tiles: TileMap | None = None
    samples: int = 1

    @property
    def whose(self) -> Hashable:
        """Whose image this is. Tiles of one picture count as one when slots are shared out."""
        return id(self)

    def set_out(self) -> None:
        """Its steps begin."""

    @property
    def share(self) -> float:
        """How much of an image it is."""
        return 1 / self.samples

    def finish(self, image: Tensor) -> None:
        """Take an image (3, H, W) on the CPU, if it is one."""
        if bool(image.isfinite().all()):
            self.image = image.clone()  # those that it was made with go
        else:
            self.fail("its restoration diverged; try a smaller guidance, and see that the physics gives finite numbers")

    def fail(self, reason: str) -> None:
        """Give up the image."""
        self.failed, self.gflop = reason, 0.0

    def row(self) -> dict[str, Any]:
        """What is known of it, as plain values."""
        return {name: getattr(self, name) for name in FIGURES}
