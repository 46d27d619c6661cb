"""A method on a task: degrade images, restore them, measure what came out."""

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.data import ImageDataset, in_chunks, mapped
from flashdiffusion.engine.capacity import Capacity, Failure, Limit, in_parts
from flashdiffusion.errors import FlashDiffusionError, InputError, UnsuitedError
from flashdiffusion.jobs.records import compare
from flashdiffusion.methods import SOLVERS, STARTS, Settings, parse_method
from flashdiffusion.metrics import Metrics
from flashdiffusion.physics import Window, is_linear
from flashdiffusion.physics.mixed import concatenate
from flashdiffusion.physics.tasks import Measurements, Mixture, Task, measure
from flashdiffusion.pipeline import Batch, Failed, FlashPipeline, Restored
from flashdiffusion.priors import LatentPrior
from flashdiffusion.record import Record
from flashdiffusion.schedule import Grid
from flashdiffusion.seeds import image_generator
from flashdiffusion.severity import true_severity
from flashdiffusion.solvers import Problem, Start, StartRule
from flashdiffusion.solvers.rows import Unknown

# Not a method: what the autoencoder alone makes of the clean image, the bound of every latent method.
BOUND = "bound"
PROBE = (64, 64)  # pixels of an image that a task is tried on
ENCODED = 16  # images that are encoded together
FINISHING = 4  # threads that compare images, beside a GPU: SSIM alone takes a CPU tens of milliseconds
_UNUSED = {"denoised", "noise", "regression"}  # starts that make no use of a severity


@dataclass
class Evaluated:
    """One image: its place in the data, its record, and what can be looked at, (3, H, W) in [0, 1].

    measured: the measurement as an image. estimate: the severity encoder's, decoded, if it is wanted. problem: the
    measurement with its physics, on the CPU, until it is done. failed: why there is no record. clean: None if it could
    not be read.
    """

    index: int
    id: str
    record: Record | None = None
    clean: Tensor | None = None
    measured: Tensor | None = None
    estimate: Tensor | None = None
    problem: Problem | None = None
    restored: Tensor | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Measure:
    """What is evaluated, and how its measurements are made.

    method: a name that `methods.methods()` lists, or "bound": D0(E0(x)). seed: of measurements and sampling; the same
    (seed, image id) gives the same measurement for every method. metrics: what is measured; by default all that need
    no weights. batch_size: images that are loaded together. max_in_flight: see `FlashPipeline.stream`. estimates:
    whether the severity encoder's estimates are decoded too.

    Raises:
        InputError: unknown method, or a value out of range.
        UnsuitedError: a task that may draw what the solver cannot serve.
    """

    task: Task | Mixture
    method: str
    noise_std: float = 0.05
    seed: int = 0
    settings: Settings | None = None
    metrics: Metrics = field(default_factory=Metrics)
    batch_size: int = 32
    max_in_flight: int | None = None
    estimates: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch size is {self.batch_size}; expected at least 1")
        if not 0 <= self.noise_std < math.inf:
            raise InputError(f"noise std is {self.noise_std}; expected a finite number >= 0")
        Capacity(self.max_in_flight)
        start, solver = self.parts
        wanted = getattr(STARTS[start].cls, "physics", None) if isinstance(start, str) else None
        linear_only = getattr(SOLVERS[solver].cls, "linear_only", False)
        for one in self.task.tasks if isinstance(self.task, Mixture) else (self.task,):
            if wanted is not None and one.physics != wanted:
                raise UnsuitedError(
                    f"{self.method} is for physics {wanted}, and task {self.task.name} has {one.name}; "
                    "use another method"
                )
            if linear_only and not is_linear(one.draw(1, PROBE, torch.Generator().manual_seed(0), 0.0)):
                raise UnsuitedError(
                    f"{solver} needs linear degradations, and task {self.task.name} has {one.name}; use another solver"
                )

    @property
    def parts(self) -> tuple[str | StartRule, str]:
        """Start and solver."""
        return (Reconstructed(), "prior") if self.method == BOUND else parse_method(self.method, [BOUND])

    def severity_used(self) -> bool:
        """Whether the method goes by a severity, so that the true one is of interest."""
        start, _ = self.parts
        return isinstance(start, str) and start not in _UNUSED


@dataclass(frozen=True)
class Reconstructed:
    """A start that is the end: the autoencoder's own reconstruction of what it is shown."""

    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        return Start(prior.encode(problem.image), torch.zeros(len(problem), dtype=torch.int64))


def evaluate(
    pipeline: FlashPipeline,
    data: ImageDataset,
    task: Task | Mixture,
    method: str,
    rows: Iterable[int] | None = None,
    progress: bool = False,
    total: int | None = None,
    **options: Any,
) -> Iterator[Evaluated]:
    """Restore images of `data`; each is given as soon as it is done, and is held no longer.

    Args:
        task, method, options: see `Measure`.
        rows: which images; by default all.
        progress, total: see `FlashPipeline.stream`.

    Raises:
        InputError: at once: unknown method, values out of range.
    """
    what = Measure(task, method, **options)
    start, solver = what.parts
    restored = pipeline.stream(
        _measured(pipeline, data, what, range(len(data)) if rows is None else rows),
        solver=solver,
        start=start,
        seed=what.seed,
        settings=what.settings,
        max_in_flight=what.max_in_flight,
        progress=progress,
        total=len(data) if total is None and rows is None else total,
    )
    return mapped(partial(_finish, what), restored, finishing_threads(pipeline.prior.device))


def finishing_threads(device: torch.device) -> int:
    """How many threads compare and encode images while a device restores others; a CPU has none to spare."""
    return 0 if device.type == "cpu" else FINISHING


def _finish(what: Measure, one: Restored) -> Evaluated:
    found: Evaluated = one.extra
    found.restored, found.failed = one.image, one.failed
    record, found.record = found.record, None
    problem, found.problem = found.problem, None
    if one.image is not None and record is not None and found.clean is not None and found.measured is not None:
        values: dict[str, Any] = {} if what.method == BOUND else one.row()
        if one.severity is None:
            values["true_severity"] = None
        values |= compare(what.metrics, one.image, found.clean, found.measured, problem)
        found.record = replace(record, **values)
    return found


def _measured(
    pipeline: FlashPipeline, data: ImageDataset, what: Measure, rows: Iterable[int]
) -> Iterator[Batch | Failed]:
    """Measurements of the images that can be read, and those that cannot."""
    together = Limit(ENCODED)
    # Those of their own sizes may be large, and few are alike: each comes alone.
    for chunk in in_chunks(rows, 1 if data.size is None else what.batch_size):
        images: dict[int, Tensor] = {}
        for row, one in zip(chunk, data.attempt(chunk), strict=True):
            if isinstance(one, Tensor):
                images[row] = one
            else:
                yield Failed(data.ids[row], str(one), Evaluated(row, data.ids[row]))
        refused: dict[int, str] = {}
        for rows, clean, measured in _alike(images, data.ids, what, refused):
            yield _batch(pipeline, [data.ids[row] for row in rows], rows, clean, measured, what, together)
        for row, reason in refused.items():
            yield Failed(data.ids[row], reason, Evaluated(row, data.ids[row]))


def _alike(
    images: dict[int, Tensor], ids: Sequence[str], what: Measure, refused: dict[int, str]
) -> Iterator[tuple[list[int], Tensor, Measurements]]:
    """Rows whose images are of one size, as are their measurements; with the images (B, 3, H, W) in [0, 1].

    Args:
        images: uint8 (3, H, W), by row.
        refused: gains why an image cannot be measured, by row.
    """
    alike: dict[Hashable, list[tuple[int, Tensor, Measurements]]] = {}
    for row, image in images.items():
        clean = image[None].float() / 255
        try:
            clean = _cut(clean, ids[row], what)
            measured = measure(clean, [ids[row]], what.task, what.noise_std, what.seed)
        except FlashDiffusionError as error:  # of an image of a size that the operator cannot take
            refused[row] = str(error)
            continue
        alike.setdefault((clean.shape, measured.y.shape), []).append((row, clean, measured))
    for group in alike.values():
        measurements = [one for _, _, one in group]
        physics = concatenate([one.physics for one in measurements])
        whole = Measurements(torch.cat([one.y for one in measurements]), physics)
        yield [row for row, _, _ in group], torch.cat([clean for _, clean, _ in group]), whole


def _cut(clean: Tensor, id: str, what: Measure) -> Tensor:
    """Cut an image (1, 3, H, W) to sides that super-resolution can divide, as is usual; too small, it stays."""
    height, width = clean.shape[2:]
    generator = image_generator(what.seed, id)
    unit = what.task.draw(1, (height, width), generator, what.noise_std).pixel_size
    return Window.divided((height, width), unit).of(clean)


def _batch(
    pipeline: FlashPipeline,
    ids: list[str],
    rows: list[int],
    clean: Tensor,
    measured: Measurements,
    what: Measure,
    together: Limit,
) -> Batch:
    """A batch of images (B, 3, H, W) that were measured, with what is known of them; rows: their places in the data."""
    problem = Problem(measured.y, measured.physics)
    looks = problem.image
    severities, estimates = _estimated(pipeline, clean, problem, together, what)
    described = measured.physics.describe()
    known = []
    for n, row in enumerate(rows):
        record = Record(ids[n], described[n], true_severity=severities[n])
        own = Problem(measured.y[[n]], measured.physics.take(torch.tensor([n])))
        known.append(Evaluated(row, ids[n], record, clean[n].clone(), looks[n].clone(), estimates[n], problem=own))
    if what.method == BOUND:
        return Batch(ids, clean, Unknown(), extra=known)
    return Batch.of(ids, problem, what.settings, known)


@torch.no_grad()
def _estimated(
    pipeline: FlashPipeline, clean: Tensor, problem: Problem, limit: Limit, what: Measure
) -> tuple[list[float | None], list[Tensor | None]]:
    """True severities of the encoder's estimates, and these as images, if the method goes by them and they are wanted.

    None of each where there is none.
    """
    encoder, prior = pipeline.severity_encoder, pipeline.prior
    values: list[float | None] = [None] * len(clean)
    images: list[Tensor | None] = [None] * len(clean)
    if encoder is None or not what.severity_used():
        return values, images

    def call(rows: list[int]) -> tuple[list[float], list[Tensor | None]]:
        part = pipeline.check(problem.take(torch.tensor(rows)))
        z_hat = part.severity(encoder).z_hat
        shown = [*part.cropped(prior.decode(z_hat)).float().clamp(0, 1).cpu()] if what.estimates else [None] * len(rows)
        return true_severity(z_hat, prior.encode(clean[rows].to(prior.device))).tolist(), shown

    for rows, found in in_parts(call, range(len(clean)), limit):
        if not isinstance(found, Failure):
            for row, value, image in zip(rows, *found, strict=True):
                values[row], images[row] = value, image
    return values, images
