"""Methods on tasks: planned, measured, summarised in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from flashdiffusion.cli import options
from flashdiffusion.cli.command import option
from flashdiffusion.cli.delivery import Delivery
from flashdiffusion.cli.inputs import Failures, noted
from flashdiffusion.errors import InputError, UnsuitedError, check_name, note, unknown_name

if TYPE_CHECKING:
    from flashdiffusion.jobs import EvaluateJob, Item
    from flashdiffusion.methods import Settings
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
        from flashdiffusion.physics import TASKS

        tasks = self.task or ["gaussian-blur"]
        for task in tasks:
            check_name("task", task, TASKS)
            if tasks.count(task) > 1:
                raise InputError(f"task {task} is given {tasks.count(task)} times; expected each once")
        return [options.TaskOptions(self.data, self.split, task, self.noise_std) for task in tasks]


@dataclass(frozen=True)
class ReportOptions(options.QualityOptions):
    """What is measured and kept, and with which settings."""

    save_images: Annotated[
        bool, option("Keep true, measured, estimated and restored images beside the results.", "--save-images")
    ] = False
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
        """Write the images that an item came with."""
        from flashdiffusion.data import ensure_directory, write_bytes

        for kind, png in done.pngs.items():
            file = self._image(done.name, kind)
            ensure_directory(file.parent)
            write_bytes(file, png)

    def saved(self, name: str) -> bool:
        """Whether the restored image of an earlier run is still there, if images are kept."""
        return not self.job.images or self._image(name, "restored").exists()

    def _image(self, name: str, kind: str) -> Path:
        from flashdiffusion.reports.cells import image_file, slug

        return image_file(self.results.parent, self.about["task"], slug(self.about["method"]), name, kind)


def measure_cells(
    images: TasksOptions,
    out: Path,
    methods: options.MethodsOptions,
    report: ReportOptions,
    model: options.ModelOptions,
    run: options.RunOptions,
    limit: int | None = None,
    seed: int = 0,
) -> "tuple[list[Cell], Failures, int]":
    """Measure methods on tasks; give what `out` holds then, asked for first, images that failed, and all images."""
    from flashdiffusion.data import ImageDataset, ensure_directory, ensure_file, write_json
    from flashdiffusion.data.files import unique
    from flashdiffusion.jobs import Item
    from flashdiffusion.jobs.records import made_by
    from flashdiffusion.reports.cells import CELLS, read_cell
    from flashdiffusion.reports.summary import write_summary

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
        _expect_possible(planned)
    items = [Item(i, name, id) for i, (name, id) in enumerate(zip(unique(data.ids), data.ids, strict=True))]
    failures = Failures()
    for one in planned:
        where = "" if alone else f"{one.about['method']} on {one.about['task']}: "
        if one.missing is not None:
            note(f"{where}left out: {one.missing}")
            write_json(one.results, made_by(one.job.model.torch_device, one.about) | {"missing": one.missing})
            continue
        delivery = Delivery(
            *(one.job, items, run, one.results, one.about, lambda item: data.digest(item.index)),
            save=one.save,
            saved=one.saved,
        )
        delivery()
        failures.reasons += [(f"{where}{name}", reason) for name, reason in delivery.failures.reasons]
    asked = [one.results for one in planned if one.results.exists()]
    others = [] if alone else [file for file in sorted(out.glob(CELLS)) if file not in asked]
    cells = [cell for file in (*asked, *others) if (cell := read_cell(file)) is not None]
    if cells and not alone:
        write_summary(out, cells)
    return cells, failures, len(items) * sum(one.missing is None for one in planned)


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
    from flashdiffusion.reports.cells import CELLS, read_cell

    about = {name: cells[0].about.get(name) for name in _COMMON}
    own = {cell.results for cell in cells}
    for file in sorted(folder.glob(CELLS)):
        if (
            (cell := read_cell(file)) is not None
            and file not in own
            and (other := differences(dict(cell.about), about))
        ):
            raise InputError(f"{file} holds a run with another {other}; choose another --out")


def _expect_possible(cells: Sequence[Planned]) -> None:
    """Raise InputError for settings that cannot be, before the first cell is paid for."""
    pipeline = cells[0].job.model.open()
    for cell in cells:
        start, solver = _parts(cell)
        if isinstance(start, str):
            pipeline.method(solver, start, cell.job.settings)


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
