"""Degraded images restored: read in the background, given as they finish."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from flashdiffusion.data import Kind, encode_picture, in_chunks, mapped
from flashdiffusion.data.decoding import size_of
from flashdiffusion.data.files import cut
from flashdiffusion.data.measurements import SUFFIX
from flashdiffusion.engine.capacity import Capacity
from flashdiffusion.engine.options import check_tile
from flashdiffusion.engine.tiling import Tiling, tiling_of
from flashdiffusion.errors import FlashDiffusionError, InputError, sized
from flashdiffusion.jobs.inputs import digest
from flashdiffusion.jobs.job import Item, ModelChoice
from flashdiffusion.jobs.measuring import finishing_threads
from flashdiffusion.jobs.parse import own_files
from flashdiffusion.jobs.reading import Reader, check_size, read_truth
from flashdiffusion.jobs.records import compare
from flashdiffusion.jobs.tiles import InTiles
from flashdiffusion.methods import DEFAULT_METHOD, Settings, check_used, parse_method, used_settings
from flashdiffusion.metrics import Metrics
from flashdiffusion.physics import BatchedPhysics
from flashdiffusion.pipeline import Batch, Failed, FlashPipeline, Restored
from flashdiffusion.pipeline.restoration import STEPS
from flashdiffusion.presets import preset_for
from flashdiffusion.record import Record
from flashdiffusion.severity import encoded_map
from flashdiffusion.solvers import Problem
from flashdiffusion.solvers.start import EncodedEstimate

CHUNK = 64  # images that are read together; those of them that are alike share a batch
# Consistency of a result under which there is less noise than was told. Of less noise than the second a denoiser takes
# little away, as a picture's own detail is as strong; where pixels were lost a result follows the noise of the others.
NEAR, HIDING = 0.45, 0.04
LESS_NOISE = (
    "are nearer to their measurements than the noise that was told explains, 0.05 by default: there is less; give what "
    "there is by --noise-std, or auto (consistency, docs/metrics.md)"
)
FAR = 1.5  # consistency of a result above which something that was told is wrong
MISFIT = (
    "are farther from their measurements than the noise explains: the physics or the noise that was told may not be "
    "what damaged them; a file that was once compressed needs its compression told too (consistency, docs/metrics.md)"
)
# What is kept of an image while it is restored: its item, the start of its record, and its measurement.
Kept = tuple[Item, Record | None, Problem | None]


@dataclass(frozen=True)
class RestoreJob:
    """Restore measurement files and images.

    physics, noise_std: what damaged images that are no measurement files, as on the command line; noise_std is None
    to estimate it from each. given: settings that replace those of the presets. steps: length of the time grid.
    fit: bring images to the model's size. references: the true image's file by name. weights: weights files of
    metrics that need them, by name. maps: give a picture of the severity map too, as "severity". tile: side in pixels
    of the tiles that larger pictures are restored in; 0 for none, None for the model's own choice. kept: a folder in
    which the finished tiles of a picture are kept until it is whole, and what its result depends on beside what is read
    for it, as a hash; None keeps none. total: the number of items, to show how far they are; None shows nothing.
    """

    model: ModelChoice = field(default_factory=ModelChoice)
    method: str = DEFAULT_METHOD
    physics: str | None = None
    noise_std: float | None = 0.05
    seed: int = 0
    given: Mapping[str, Any] = field(default_factory=dict)
    fit: bool = False
    references: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    max_in_flight: int | None = None
    total: int | None = None
    maps: bool = False
    tile: int | None = None
    kept: tuple[str, str] | None = None

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

    def kept_of(self, name: str, content: str) -> Path | None:
        """The folder of the kept tiles of an item of this name, of which this was read (a hash)."""
        if self.kept is None:
            return None
        folder, about = self.kept
        return Path(folder) / f"{kept_prefix(name)}{sha256(f'{about} {content}'.encode()).hexdigest()[:16]}"

    def open(self) -> "RestoreWorker":
        """Load the model.

        Raises:
            InputError: options that no image can use.
        """
        return RestoreWorker(self)


def kept_prefix(name: str) -> str:
    """How the folders of kept tiles of an item of this name begin."""
    return f".{cut(name, 200)}.tiles-"


class RestoreWorker:
    """An opened job.

    Args:
        pipeline: the job's model, if it is loaded already.
        most: pixels that an image or its result may have, see `Reader`.
    """

    def __init__(self, job: RestoreJob, pipeline: FlashPipeline | None = None, most: int | None = None) -> None:
        self.job = job
        self.start, self.solver = parse_method(job.method)
        check_used(Settings(**job.given), self.start, self.solver, job.method)
        self.metrics = Metrics(job.weights)
        self.pipeline = job.model.open() if pipeline is None else pipeline
        self.reader = Reader(self.pipeline, job.physics, job.noise_std, job.seed, job.fit, True, job.tile, most)
        _, rule = self.pipeline.method(self.solver, self.start, job.settings_for("gaussian-blur"))
        estimated = hasattr(rule, "encoder") or isinstance(getattr(rule, "estimate", None), EncodedEstimate)
        if job.maps and not estimated:
            raise InputError(f"method {job.method} estimates no severity, so it has no maps; expected e.g. flash or ae")
        Capacity(job.max_in_flight)
        check_tile(job.tile)

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        """Restore the items; each is given once, as soon as it is done."""
        restored = self.pipeline.stream(
            self._batches(items),
            solver=self.solver,
            start=self.start,
            seed=self.job.seed,
            max_in_flight=self.job.max_in_flight,
            progress=self.job.total is not None,
            total=self.job.total,
            tile=self.job.tile,
        )
        return mapped(self.finish, restored, finishing_threads(self.pipeline.prior.device))

    # -- in the thread that reads ---------------------------------------------------------------------------

    def _batches(self, items: Iterable[Item]) -> Iterator[Batch | Failed]:
        settings = Settings(**self.job.given) if self.job.given else None
        for chunk in in_chunks(items, CHUNK):
            groups: dict[object, list[tuple[Problem, Kept]]] = {}
            for item in chunk:
                read = self.read(replace(item))
                if isinstance(read, Failed):
                    yield read
                    continue
                one = read[0]
                if self.tiling(one) is not None:  # it is large: those that are read with it wait
                    _, record, _ = read[1]
                    folder = None if record is None else self.job.kept_of(item.name, record.digest or "")
                    yield Batch.of([item.name], one, settings, [read[1]], kept=[folder])
                    continue
                groups.setdefault(joinable(one), []).append(read)
            for group in groups.values():
                problem = Problem.join([one for one, _ in group])
                yield Batch.of([known[0].name for _, known in group], problem, settings, [known for _, known in group])

    def tiling(self, problem: Problem) -> Tiling | None:
        """How a picture is cut into tiles, if it is."""
        tiling = tiling_of(problem.y, problem.physics, self.pipeline, self.job.tile)
        return tiling if isinstance(tiling, Tiling) else None

    def read(self, item: Item) -> "tuple[Problem, Kept] | Failed":
        """Read an item's file, and begin its record; a failure says why it cannot be used."""
        try:
            return self.read_checked(item)
        except (FlashDiffusionError, OSError) as error:
            item.source = item.path
            return Failed(item.name, str(error), (item, None, None))

    def read_checked(self, item: Item) -> "tuple[Problem, Kept]":
        """Read an item's file as `read`; raises FlashDiffusionError or OSError if it cannot be used."""
        problem = self.reader(item)
        content = self.job.digest_of(item)
        self._check_truth(item, problem)
        self._note_size(item, problem)
        physics = problem.physics
        degradation = physics.describe()[0] if isinstance(physics, BatchedPhysics) else None
        known = Record(item.name, degradation, item.noise_std, file=item.path, digest=content)
        return problem, (item, known, problem)

    def _check_truth(self, item: Item, problem: Problem) -> None:
        """Raise InputError if the true image has another size than the result will have, before it is restored."""
        reference, size = self.job.references.get(item.name), None
        if reference is None or item.fitted:
            return
        with suppress(InputError):  # of one that cannot be read the result goes without
            size = size_of(reference)
        if size is not None:
            result = self._size(problem)
            helps = self.reader.fit_helps(Path(item.path), result)
            hint = " (--fit crops and resizes both)" if helps else ""
            check_size(Path(reference), size, result, _pixel_size(problem), hint)

    def _size(self, problem: Problem) -> tuple[int, int]:
        """Height and width of the result."""
        tiling = self.tiling(problem)
        return (problem.image.shape[2], problem.image.shape[3]) if tiling is None else tiling.size

    def _note_size(self, item: Item, problem: Problem) -> None:
        """Note that an image's size is far from the model's."""
        size, path, remedy = self._size(problem), Path(item.path), ""
        far = self.pipeline.far_from(size)
        if far is None or self.job.fit or item.fitted or self.tiling(problem) is not None:
            return
        if self.reader.fit_helps(path, size):
            remedy = "; --fit restores them at that"
        elif path.suffix == SUFFIX:
            remedy = f"; degrade --size {self.pipeline.sample_size} makes them of that"
        what = f"are of sizes {far}{remedy}"
        item.shared = {**item.shared, what: f"{item.path}, {sized(*size)}"}

    def _note_noise(self, item: Item, physics: Any, consistency: float | None) -> None:
        """Note that there is less noise than the user says."""
        told = self.job.noise_std is not None and Path(item.path).suffix != SUFFIX
        if consistency is None or not told or not isinstance(physics, BatchedPhysics) or physics.loses:
            return
        if consistency < NEAR and float(physics.noise_std.max()) >= HIDING:
            item.shared = {**item.shared, LESS_NOISE: f"{item.path}, with a consistency of {consistency:.2g}"}

    def _note_misfit(self, item: Item, restored: Restored, consistency: float | None) -> None:
        """Note that a result contradicts its measurement, of which the user said the physics."""
        told = Path(item.path).suffix != SUFFIX and not restored.physics_corrected
        fits = parse_method(self.job.method)[1] == "proximal"  # others come no closer than the decoder does
        if consistency is not None and consistency > FAR and told and fits:
            item.shared = {**item.shared, MISFIT: f"{item.path}, {consistency:.3g} times"}

    # -- where the results are wanted -----------------------------------------------------------------------

    @torch.no_grad()
    def finish(self, restored: Restored) -> Item:
        """The item of an image that `stream` gave, with what it came to; its `extra` is what `read` gave."""
        known: Kept = restored.extra
        item, record, problem = known
        item.reason = restored.failed
        kind, item.kind = item.kind, Kind()  # alpha is not to travel with the result
        if restored.image is None or record is None or problem is None:
            return item
        values = restored.row()
        image = restored.image.mean(dim=0, keepdim=True) if kind.grey else restored.image
        truth = None
        if (reference := self.job.references.get(item.name)) is not None:
            try:
                height, width = image.shape[1:]
                truth = read_truth(Path(reference), (height, width), item.fitted, _pixel_size(problem), item.note)[0]
            except FlashDiffusionError as error:
                item.reason = str(error)
        tiling = self.tiling(problem)
        measured = problem if tiling is None else InTiles(problem, tiling)
        values["tiles"] = None if restored.tiles is None else restored.tiles.plain()
        values |= compare(self.metrics, image.expand(3, -1, -1), truth, problem.image[0].cpu(), measured)
        self._note_noise(item, problem.physics, values["metrics"].get("consistency"))
        self._note_misfit(item, restored, values["metrics"].get("consistency"))
        pngs = {"restored": encode_picture(image, kind)}
        if self.job.maps and restored.severity_map is not None:
            pngs["severity"] = encoded_map(restored.severity_map, (image.shape[1], image.shape[2]))
        if self.job.maps and restored.tiles is not None:
            pngs[STEPS] = restored.tiles.png
        item.record, item.pngs = replace(record, **values).to_json(), pngs
        return item


def joinable(problem: Problem) -> Hashable:
    """Problems for which it is equal can be joined, for a batch."""
    return type(problem.physics), problem.y.shape, problem.image.shape


def _pixel_size(problem: Problem) -> int:
    """Side of a pixel of y, in pixels of x."""
    return problem.physics.pixel_size if isinstance(problem.physics, BatchedPhysics) else 1
