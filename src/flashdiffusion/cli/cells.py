"""Methods on tasks: planned, measured, summarised in a folder."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from flashdiffusion.cli import options
from flashdiffusion.cli.command import option
from flashdiffusion.cli.delivery import Delivery
from flashdiffusion.cli.inputs import Failures, noted
from flashdiffusion.errors import InputError, UnsuitedError, note, unknown_name

if TYPE_CHECKING:
    from flashdiffusion.jobs import EvaluateJob, Item
    from flashdiffusion.methods import Settings
    from flashdiffusion.metrics import Distributions
    from flashdiffusion.record import Record
    from flashdiffusion.reports import Cell

# What all cells of a folder have in common, so that they can be compared.
_COMMON = ("model", "precision", "data", "split", "noise_std", "seed", "told", "lpips_net")


@dataclass(frozen=True)
class TasksOptions(options.DataOptions):
    """Images, and the ways in which they are degraded."""

    task: Annotated[
        list[str] | None, option("Task, e.g. random-inpainting; repeat for more. Default: gaussian-blur.")
    ] = None
    noise_std: options.NoiseStd = 0.05

    @property
    def each(self) -> list[options.TaskOptions]:
        """Each task; raises InputError for one that is unknown or given twice."""
        from flashdiffusion.physics import get_task

        tasks = self.task or ["gaussian-blur"]
        for task in tasks:
            get_task(task)
            if tasks.count(task) > 1:
                raise InputError(f"task {task} is given {tasks.count(task)} times; expected each once")
        return [options.TaskOptions(self.data, self.split, task, self.noise_std) for task in tasks]


@dataclass(frozen=True)
class ReportOptions(options.QualityOptions):
    """What is measured and kept, and with which settings."""

    save_images: Annotated[
        bool, option("Keep true, measured, estimated and restored images beside the results.", "--save-images")
    ] = False
    distance: Annotated[
        list[str] | None,
        option(
            "Distance of all restored images from the true ones: fd_alex (with --lpips alex or its file), fid; repeat "
            "for more."
        ),
    ] = None
    told: options.Told = None
    preset: Annotated[str, option("Settings: tuned, or published for 256x256 images: FFHQ or LSUN.")] = "tuned"
    batch_size: Annotated[int, option("Images loaded at a time.")] = 64


@dataclass(frozen=True)
class Planned:
    """One method on one task: its job, what it is about, and the file of its results.

    missing: why the task cannot have the method.
    """

    job: "EvaluateJob"
    about: dict[str, Any]
    results: Path
    missing: str | None

    def save(self, done: "Item") -> None:
        """Write the images and features that an item came with."""
        from flashdiffusion.data import ensure_directory, write_bytes

        found = {self._image(done.name, kind): png for kind, png in done.pngs.items()}
        if done.features:
            found[self._features(done.name)] = done.features
        for file, content in found.items():
            ensure_directory(file.parent)
            write_bytes(file, content)

    def saved(self, name: str) -> bool:
        """Whether what is kept of an image of an earlier run is still there."""
        wanted = [self._image(name, "restored")] if self.job.images else []
        if self.distributions.networks:
            wanted.append(self._features(name))
        return all(file.exists() for file in wanted)

    def distances(self, records: "Sequence[Record]") -> dict[str, Any]:
        """The distances that were asked for, over the images of these records, or why there are none."""
        from safetensors.torch import load_file

        from flashdiffusion.metrics import distances

        if not self.job.distances:
            return {}
        found = {name: {"value": None, "missing": reason} for name, reason in self.distributions.missing.items()}
        files = [file for record in records if (file := self._features(record.id)).exists()]
        found |= {name: asdict(one) for name, one in distances(load_file(file) for file in files).items()}
        return {"distances": found}

    @cached_property
    def distributions(self) -> "Distributions":
        """Networks of the distances."""
        from flashdiffusion.metrics import Distributions

        return Distributions(self.job.distances, self.job.weights)

    def _image(self, name: str, kind: str) -> Path:
        from flashdiffusion.reports.cells import image_file

        return image_file(self.results, self.about["task"], self.about["method"], name, kind)

    def _features(self, name: str) -> Path:
        from flashdiffusion.reports.cells import file_name

        return self.results.with_suffix(".features") / f"{file_name(name)}.safetensors"


@dataclass(frozen=True)
class Outcome:
    """What was measured.

    asked: a cell for each task and method, in their order, of the images asked for alone; those of which none could be
    measured are not among them. others: cells that the folder held before. failures: images that failed, of `total`.
    """

    asked: "list[Cell]"
    others: "list[Cell]"
    failures: Failures
    total: int


def measure_cells(
    images: TasksOptions,
    out: Path,
    methods: options.MethodsOptions,
    report: ReportOptions,
    model: options.ModelOptions,
    run: options.RunOptions,
    limit: int | None = None,
    seed: int = 0,
) -> Outcome:
    """Measure methods on tasks, each into a results file in the folder `out`, or into the file `out` itself."""
    from flashdiffusion.data import ImageDataset, ensure_directory, ensure_file
    from flashdiffusion.data.files import unique
    from flashdiffusion.jobs import Item
    from flashdiffusion.reports.cells import cells_in, read_cell

    planned = [
        _plan(one, method, report, model, run, out, limit, seed) for one in images.each for method in methods.each()
    ]
    alone = out.suffix.lower() == ".json"
    if alone and len(planned) > 1:
        raise InputError(f"out is {out}, one results file for {len(planned)} methods and tasks; expected a folder")
    if alone and planned[0].missing is not None:
        raise InputError(planned[0].missing)
    data = noted(ImageDataset(images.data, 1, limit, split=images.split))
    if alone:
        ensure_file(out)
    else:
        _expect_comparable(ensure_directory(out), planned)
        planned = _possible(planned)
    items = [Item(i, name, id) for i, (name, id) in enumerate(zip(unique(data.ids), data.ids, strict=True))]
    names, failures, asked = {item.name for item in items}, Failures(), []
    for one in planned:
        reasons = _measure(one, items, run, lambda item: data.digest(item.index))
        where = "" if alone else f"{one.about['method']} on {one.about['task']}: "
        failures.reasons += [(f"{where}{name}", reason) for name, reason in reasons]
        cell = read_cell(one.results) if one.results.exists() else None
        if cell is not None and ((own := cell.of(names)).records or own.missing):
            asked.append(own)
    files = {one.results for one in planned}
    others = [] if alone else [cell for cell in cells_in(out) if cell.path not in files]
    return Outcome(asked, others, failures, len(items) * sum(one.missing is None for one in planned))


def _measure(
    one: Planned, items: "Sequence[Item]", run: options.RunOptions, digest_of: "Callable[[Item], str]"
) -> list[tuple[str, str]]:
    """Measure one method on one task, or write why it cannot be; the images that failed, with reasons."""
    from flashdiffusion.data import write_json
    from flashdiffusion.jobs.records import made_by

    if one.missing is not None:
        note(f"{one.about['method']} on {one.about['task']}: left out: {one.missing}")
        write_json(one.results, made_by(one.job.model.torch_device, one.about) | {"missing": one.missing})
        return []
    delivery = Delivery(one.job, items, run, one.results, one.about, digest_of, save=one.save, saved=one.saved)
    delivery(one.distances)
    return delivery.failures.reasons


def _plan(
    images: options.TaskOptions,
    method: options.MethodOptions,
    report: ReportOptions,
    model: options.ModelOptions,
    run: options.RunOptions,
    out: Path,
    limit: int | None,
    seed: int,
) -> Planned:
    """One method on one task; raises InputError for settings that the method does not use."""
    from flashdiffusion.jobs import EvaluateJob
    from flashdiffusion.jobs.measuring import Measure
    from flashdiffusion.methods import used_settings
    from flashdiffusion.physics import Mixture, get_task
    from flashdiffusion.reports.cells import cell_file

    task, parts = get_task(images.task), method.parts(bound=True)
    mixture = isinstance(task, Mixture)
    choice = model.choice(method.regressor, run.compile, report.told)
    settings = _settings(report.preset, images.task, mixture, parts, choice.presets, method.given)
    used = dict(settings) if mixture else used_settings(*parts, settings)
    about = model.about(method.regressor) | images.about()
    about |= {"method": method.label, "seed": seed, "settings": used, "told": report.told} | report.about()
    folders, bounds = tuple(map(str, images.data)), (report.weights, report.batch_size, run.max_in_flight)
    job = EvaluateJob(
        *(folders, choice, images.task, method.name, images.noise_std, seed, settings, limit, *bounds),
        images=report.save_images,
        distances=tuple(report.distance or ()),
        split=images.split,
    )
    missing = None
    try:
        Measure(task, method.name, images.noise_std, batch_size=report.batch_size, max_in_flight=run.max_in_flight)
    except UnsuitedError as error:
        missing = str(error)
    file = out if out.suffix.lower() == ".json" else cell_file(out, images.task, method.label)
    return Planned(job, about, file, missing)


def _expect_comparable(folder: Path, cells: Sequence[Planned]) -> None:
    """Raise InputError if the folder holds results of other images, another model, noise or seed."""
    from flashdiffusion.jobs.journal import differences
    from flashdiffusion.reports.cells import cells_in

    about = {name: cells[0].about.get(name) for name in _COMMON}
    own = {cell.results for cell in cells}
    for cell in cells_in(folder):
        if cell.path not in own and (other := differences(dict(cell.about), about)):
            raise InputError(f"{cell.path} holds a run with another {other}; choose another --out")


def _possible(cells: Sequence[Planned]) -> list[Planned]:
    """The same, knowing which the model cannot have; raises InputError for settings that cannot be, before it costs."""
    pipeline, found = cells[0].job.model.open(), []
    for cell in cells:
        start, solver = _parts(cell)
        missing = cell.missing
        try:
            if isinstance(start, str):
                pipeline.method(solver, start, cell.job.settings)
        except UnsuitedError as error:
            missing = str(error)
        found.append(replace(cell, missing=missing))
    if all(cell.missing for cell in found):
        raise InputError(found[0].missing)
    return found


def _parts(cell: Planned) -> Any:
    from flashdiffusion.jobs.measuring import BOUND
    from flashdiffusion.methods import parse_method

    return (None, "prior") if cell.job.method == BOUND else parse_method(cell.job.method)


def _settings(
    preset: str, task: str, mixture: bool, parts: tuple[str, str], presets: Any, given: dict[str, Any]
) -> "Settings":
    """The settings given, over those of the preset; of a mixture each image takes those of its own degradation."""
    from flashdiffusion.methods import Settings
    from flashdiffusion.presets import PUBLISHED_IMAGES, preset_for, published_for

    if preset in PUBLISHED_IMAGES:
        return published_for(task, *parts, preset) | given
    if preset != "tuned":
        raise unknown_name("preset", preset, ["tuned", *PUBLISHED_IMAGES])
    return Settings(**given) if mixture else preset_for(presets, task, *parts, given.get("steps")) | given
