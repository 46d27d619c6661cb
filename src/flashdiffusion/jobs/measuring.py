"""A method on a task: degrade images, restore them, measure what came out."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.data import ImageDataset, in_chunks, mapped, prefetched
from flashdiffusion.engine.capacity import Capacity, Failure, Limit, in_parts
from flashdiffusion.errors import InputError
from flashdiffusion.jobs.quality import compare
from flashdiffusion.jobs.records import Record
from flashdiffusion.methods import SOLVERS, Settings, parse_method
from flashdiffusion.metrics import Metrics
from flashdiffusion.physics import is_linear
from flashdiffusion.physics.tasks import Mixture, Task, measure
from flashdiffusion.pipeline import Batch, FlashPipeline, Restored
from flashdiffusion.severity import true_severity
from flashdiffusion.solvers import Problem

# Not a method: what the autoencoder alone makes of the clean image, the bound of every latent method.
BOUND = "bound"
PROBE = (64, 64)  # pixels of an image that a task is tried on
ENCODED = 16  # images that are encoded together
FINISHING = 4  # threads that compare images, beside a GPU: SSIM alone takes a CPU tens of milliseconds
_UNUSED = {"noise", "regression"}  # starts that make no use of a severity


@dataclass(frozen=True)
class Evaluated:
    """One finished image: its place in the data, its record, and what can be looked at, (3, H, W) in [0, 1].

    measured: the measurement as an image. failed: why there is no record. clean: None if it could not be read.
    """

    index: int
    id: str
    record: Record | None = None
    clean: Tensor | None = None
    measured: Tensor | None = None
    restored: Tensor | None = None
    failed: str | None = None


def evaluate(
    pipeline: FlashPipeline,
    data: ImageDataset,
    task: Task | Mixture,
    method: str,
    noise_std: float = 0.05,
    seed: int = 0,
    settings: Settings | None = None,
    metrics: Metrics | None = None,
    batch_size: int = 32,
    max_in_flight: int | None = None,
    progress: bool = False,
    rows: Iterable[int] | None = None,
) -> Iterator[Evaluated]:
    """Restore images of `data`; each is given as soon as it is done, and is held no longer.

    Args:
        method: a name that `methods.methods()` lists, or "bound": D0(E0(x)).
        seed: of measurements and sampling; the same (seed, image id) gives the same measurement for
            every method.
        metrics: what is measured; by default all that need no weights.
        batch_size: images that are loaded together.
        max_in_flight: images in flight at a time, see `FlashPipeline.stream`.
        rows: which images; by default all.

    Raises:
        InputError: unknown method, settings out of range.
    """
    start, solver = ("", "") if method == BOUND else parse_method(method, [BOUND])
    check_options(task, solver, noise_std, batch_size, max_in_flight)
    metrics = metrics or Metrics()
    chunks = in_chunks(range(len(data)) if rows is None else rows, batch_size)
    measuring = _Measuring(pipeline, data, task, noise_std, seed, settings, start not in _UNUSED)
    if method == BOUND:
        restored = _reconstructed(pipeline, measuring, chunks)
    else:
        restored = pipeline.stream(
            measuring.batches(chunks),
            solver=solver,
            start=start,
            seed=seed,
            settings=settings,
            max_in_flight=max_in_flight,
            progress=progress,
        )

    def finish(one: Restored) -> Evaluated:
        known = measuring.known.pop(one.index)
        record = None
        if one.image is not None:
            values: dict[str, Any] = {} if method == BOUND else one.row()
            if one.severity is not None:
                values["true_severity"] = known.severity
            values |= compare(metrics, one.image, known.clean, known.measured)
            record = Record(known.id, known.degradation, **values)
        return Evaluated(known.row, one.id, record, known.clean, known.measured, one.image, one.failed)

    for done in mapped(finish, restored, finishing_threads(pipeline.prior.device)):
        yield from measuring.unread()
        yield done
    yield from measuring.unread()


def finishing_threads(device: torch.device) -> int:
    """How many threads compare and encode images while a device restores others; a CPU has none to spare."""
    return 0 if device.type == "cpu" else FINISHING


@dataclass(frozen=True)
class _Known:
    """What is kept of an image while it is restored: its place in the data and what to compare with."""

    row: int
    id: str
    clean: Tensor
    measured: Tensor
    degradation: dict[str, Any]
    severity: float | None


class _Measuring:
    """Images on their way: `batches` is run in a thread, `unread` where the results are wanted."""

    def __init__(
        self,
        pipeline: FlashPipeline,
        data: ImageDataset,
        task: Task | Mixture,
        noise_std: float,
        seed: int,
        settings: Settings | None,
        severities: bool,
    ) -> None:
        self.pipeline, self.data, self.task = pipeline, data, task
        self.noise_std, self.seed, self.settings = noise_std, seed, settings
        self.severities = severities
        self.known: dict[int, _Known] = {}  # by place in the stream
        self.bad: deque[Evaluated] = deque()
        self.together = Limit(ENCODED)

    def batches(self, chunks: Iterable[list[int]]) -> Iterator[Batch]:
        """Measurements of the images that can be read."""
        place = 0
        for chunk in chunks:
            read = dict(zip(chunk, self.data.attempt(chunk), strict=True))
            images = {row: one for row, one in read.items() if isinstance(one, Tensor)}
            ids = [self.data.ids[row] for row in images]
            self.bad += [Evaluated(row, self.data.ids[row], failed=str(read[row])) for row in read.keys() - images]
            if not images:
                continue
            clean = torch.stack(list(images.values())).float() / 255
            measured = measure(clean, ids, self.task, self.noise_std, self.seed)
            problem = Problem(measured.y, measured.physics)
            looks = problem.image
            severities = self._true_severities(clean, looks)
            described = measured.physics.describe()
            for n, (row, id) in enumerate(zip(images, ids, strict=True)):
                self.known[place] = _Known(row, id, clean[n].clone(), looks[n].clone(), described[n], severities[n])
                place += 1
            yield Batch.of(ids, problem, self.settings)

    def unread(self) -> Iterator[Evaluated]:
        """Images that could not be read."""
        while self.bad:
            yield self.bad.popleft()

    @torch.no_grad()
    def _true_severities(self, clean: Tensor, looks: Tensor) -> list[float | None]:
        encoder, prior = self.pipeline.severity_encoder, self.pipeline.prior
        if encoder is None or not self.severities:
            return [None] * len(clean)

        def call(rows: list[int]) -> list[float]:
            x, y = clean[rows].to(prior.device), looks[rows].to(prior.device).float()
            return [float(value) for value in true_severity(encoder(y).z_hat, prior.encode(x))]

        values: list[float | None] = []
        for rows, severities in in_parts(call, range(len(clean)), self.together):
            values += [None] * len(rows) if isinstance(severities, Failure) else severities
        return values


@torch.no_grad()
def _reconstructed(pipeline: FlashPipeline, measuring: _Measuring, chunks: Iterable[list[int]]) -> Iterator[Restored]:
    """What the autoencoder makes of the true images."""
    prior, place = pipeline.prior, 0
    for batch in prefetched(measuring.batches(chunks)):
        clean = torch.stack([measuring.known[place + n].clean for n in range(len(batch.ids))])

        def call(rows: list[int], clean: Tensor = clean) -> Tensor:
            return prior.decode(prior.encode(clean[rows].to(prior.device))).float().clamp(0, 1).cpu()

        for rows, images in in_parts(call, range(len(clean)), measuring.together):
            for n, row in enumerate(rows):
                if isinstance(images, Failure):
                    yield Restored(place + row, batch.ids[row], failed=images.reason)
                else:
                    yield Restored(place + row, batch.ids[row], images[n])
        place += len(clean)


def check_options(
    task: Task | Mixture, solver: str, noise_std: float, batch_size: int, max_in_flight: int | None
) -> None:
    """Raise InputError for what no image can use, and for a task that may draw what the solver cannot serve."""
    if batch_size < 1:
        raise InputError(f"batch size is {batch_size}; expected at least 1")
    if not 0 <= noise_std < math.inf:
        raise InputError(f"noise std is {noise_std}; expected a finite number >= 0")
    Capacity(max_in_flight)
    if not getattr(SOLVERS[solver].cls if solver else None, "linear_only", False):
        return
    for one in task.tasks if isinstance(task, Mixture) else (task,):
        physics = one.draw(1, PROBE, torch.Generator().manual_seed(0), 0.0)
        if not is_linear(physics):
            raise InputError(
                f"{solver} needs linear degradations, and task {task.name} has {one.name}; use another solver"
            )
