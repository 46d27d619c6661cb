"""Degraded images restored: read in the background, given as they finish."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.data import encode_image, in_chunks, mapped
from flashdiffusion.data.measurements import SUFFIX
from flashdiffusion.engine.capacity import Capacity
from flashdiffusion.errors import FlashDiffusionError
from flashdiffusion.jobs.inputs import digest
from flashdiffusion.jobs.job import Done, Item, ModelChoice
from flashdiffusion.jobs.measured import Measured, Reader, is_image, read_truth
from flashdiffusion.jobs.measuring import finishing_threads
from flashdiffusion.jobs.parse import own_files
from flashdiffusion.jobs.quality import compare
from flashdiffusion.jobs.records import Record
from flashdiffusion.methods import Settings, parse_method, used_settings
from flashdiffusion.metrics import Metrics
from flashdiffusion.physics import BatchedPhysics
from flashdiffusion.pipeline import Batch, Failed, Restored
from flashdiffusion.presets import preset_for
from flashdiffusion.solvers import Problem

CHUNK = 64  # images that are read together; those of them that are alike share a batch
FAR = 1.5  # shorter side of an image over the model's, or under it, from where the user is told


@dataclass(frozen=True)
class RestoreJob:
    """Restore measurement files and images.

    physics, noise_std: what damaged images that are no measurement files, as on the command line. given: settings
    that replace those of the presets. steps: length of the time grid. fit: bring images to the model's size.
    references: the true image's file by name. weights: weights files of metrics that
    need them, by name.
    """

    model: ModelChoice = field(default_factory=ModelChoice)
    method: str = "flash(latent-dps)"
    physics: str | None = None
    noise_std: float = 0.05
    seed: int = 0
    given: Mapping[str, Any] = field(default_factory=dict)
    fit: bool = False
    references: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    max_in_flight: int | None = None
    progress: bool = False

    def settings_for(self, task: str | BatchedPhysics) -> Settings:
        """Settings of images with this physics, or the physics of this name."""
        start, solver = parse_method(self.method)
        return preset_for(self.model.presets, task, start, solver, self.given.get("steps")) | self.given

    def used_settings(self, task: str) -> dict[str, Any]:
        """Values of the settings that the method uses, for records."""
        return used_settings(*parse_method(self.method), self.settings_for(task))

    def digest_of(self, item: Item) -> str:
        """Hash of what is read for an item: its own file, that of the true image, its mask in a folder of masks.

        Raises:
            OSError: one cannot be read.
        """
        truth = self.references.get(item.name)
        masks = own_files(self.physics, Path(item.path)) if Path(item.path).suffix != SUFFIX else []
        return digest(item.path, *([] if truth is None else [truth]), *masks)

    def open(self) -> "RestoreWorker":
        """Load the model.

        Raises:
            InputError: options that no image can use.
        """
        return RestoreWorker(self)


class RestoreWorker:
    """An opened job."""

    def __init__(self, job: RestoreJob) -> None:
        self.job = job
        self.start, self.solver = parse_method(job.method)
        self.metrics = Metrics(job.weights)
        self.pipeline = job.model.open()
        self.reader = Reader(self.pipeline, job.physics, job.noise_std, job.seed, job.fit, needed=True)
        settings = job.settings_for("gaussian-blur")
        self.pipeline.method(self.solver, self.start, settings)
        Capacity(job.max_in_flight)

    def __call__(self, items: Iterable[Item]) -> Iterator[Done]:
        """Restore the items; each is given once, as soon as it is done."""
        run = _Reading(self)
        restored = self.pipeline.stream(
            run.batches(items),
            solver=self.solver,
            start=self.start,
            seed=self.job.seed,
            max_in_flight=self.job.max_in_flight,
            progress=self.job.progress,
        )
        return mapped(run.done, restored, finishing_threads(self.pipeline.prior.device))


class _Reading:
    """Items on their way: `batches` is run in a thread, `done` where the results are wanted."""

    def __init__(self, worker: RestoreWorker) -> None:
        self.job, self.pipeline, self.worker = worker.job, worker.pipeline, worker
        self.quiet = self.job.fit or self.pipeline.sample_size is None

    # -- in the thread that reads ---------------------------------------------------------------------------

    def batches(self, items: Iterable[Item]) -> Iterator[Batch | Failed]:
        settings = Settings(**self.job.given) if self.job.given else None
        for chunk in in_chunks(items, CHUNK):
            groups: dict[object, list[tuple[Measured, _Source]]] = {}
            for item in chunk:
                read = self._read(item)
                if isinstance(read, Failed):
                    yield read
                    continue
                one = read[0].problem
                groups.setdefault((type(one.physics), one.y.shape, one.image.shape), []).append(read)
            for group in groups.values():
                problem = Problem.join([one.problem for one, _ in group])
                yield Batch.of([one.name for one, _ in group], problem, settings, [known for _, known in group])

    def _read(self, item: Item) -> "tuple[Measured, _Source] | Failed":
        path, notes = Path(item.path), list[str]()
        try:
            one = self.worker.reader(path, item.name, notes.append)
            content = self.job.digest_of(item)
        except (FlashDiffusionError, OSError) as error:
            return Failed(item.name, str(error), _Source(item, notes=tuple(notes), source=item.path))
        if not self.quiet and is_image(path) and (note := self._size_note(one)):
            notes.append(note)
            self.quiet = True
        physics = one.problem.physics
        degradation = physics.describe()[0] if isinstance(physics, BatchedPhysics) else None
        measured = one.problem.image[0].cpu().clone() if item.name in self.job.references else None
        return one, _Source(item, degradation, content, tuple(notes), None, measured, one.fitted, one.grey)

    def _size_note(self, one: Measured) -> str | None:
        side = self.pipeline.sample_size
        assert side is not None
        height, width = one.problem.image.shape[2:]
        if 1 / FAR <= min(height, width) / side <= FAR:
            return None
        return (
            f"{one.path} is restored at {width}x{height} and the model was trained on images of {side}x{side}; --fit "
            "restores at that size"
        )

    # -- where the results are wanted -----------------------------------------------------------------------

    @torch.no_grad()
    def done(self, restored: Restored) -> Done:
        """What a restored image comes to."""
        known: _Source = restored.extra
        item = known.item
        if restored.image is None:
            return Done(item.index, item.name, reason=restored.failed, source=known.source, notes=known.notes)
        values, reason = restored.row(), None
        image = restored.image.mean(dim=0, keepdim=True) if known.grey else restored.image
        if known.measured is not None:
            try:
                height, width = image.shape[1:]
                truth = read_truth(Path(self.job.references[item.name]), (height, width), known.fitted, known.note)[0]
                values |= compare(self.worker.metrics, image.expand(3, -1, -1), truth, known.measured)
            except FlashDiffusionError as error:
                reason = str(error)
        record = Record(item.name, known.degradation, file=item.path, digest=known.digest, **values)
        pngs = {"restored": encode_image(image)}
        return Done(item.index, item.name, record.to_json(), pngs, reason, notes=known.notes)


@dataclass
class _Source:
    """What is kept of an item while its image is restored.

    measured: (3, H, W), to compare with the true image. source: the file, if it could not be read.
    """

    item: Item
    degradation: dict[str, Any] | None = None
    digest: str = ""
    notes: tuple[str, ...] = ()
    source: str | None = None
    measured: Tensor | None = None
    fitted: bool = False
    grey: bool = False

    def note(self, text: str) -> None:
        self.notes += (text,)
