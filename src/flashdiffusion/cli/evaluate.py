"""`flashdiffusion evaluate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from flashdiffusion.cli import options
from flashdiffusion.cli.command import option
from flashdiffusion.cli.delivery import Delivery
from flashdiffusion.cli.inputs import noted
from flashdiffusion.cli.tables import figures
from flashdiffusion.errors import InputError, unknown_name

if TYPE_CHECKING:
    from flashdiffusion.methods import Settings

SHOWN = 16  # images on the sheet of --grid


@dataclass(frozen=True)
class ReportOptions(options.QualityOptions):
    """What is measured and shown, and with which settings."""

    grid: Annotated[Path | None, option("Write clean, measured and restored images as a PNG.")] = None
    preset: Annotated[str, option("Settings: tuned, or published for 256x256 images: FFHQ or LSUN.")] = "tuned"
    batch_size: Annotated[int, option("Images loaded at a time.")] = 64


def command(
    images: options.TaskOptions,
    out: options.OutFile,
    method: options.MethodOptions,
    report: ReportOptions,
    model: options.ModelOptions,
    run: options.RunOptions,
    limit: options.Limit = None,
    seed: options.Seed = 0,
) -> int:
    """Measure a method on a task: one record per image and the means, as JSON. The method may be `bound`."""
    from flashdiffusion.data import ImageDataset, ensure_file
    from flashdiffusion.data.files import unique
    from flashdiffusion.jobs import EvaluateJob, Item
    from flashdiffusion.jobs.records import summarise
    from flashdiffusion.methods import used_settings
    from flashdiffusion.physics import Mixture, get_task

    mixture = isinstance(get_task(images.task), Mixture)
    parts = method.parts(bound=True)
    if report.grid is not None and report.grid.suffix.lower() != ".png":
        raise InputError(f"grid is {report.grid}; expected a name that ends in .png")
    choice = model.choice(method.regressor, run.compile)
    settings = _settings(report.preset, images.task, mixture, parts, choice.presets, method.given)
    for path in filter(None, (out, report.grid)):
        ensure_file(path)
    data = noted(ImageDataset(images.data, 1, limit, split=images.split))
    what: dict[str, Any] = {"task": images.task, "method": method.name, "noise_std": images.noise_std, "seed": seed}
    bounds = (settings, limit, report.weights, report.batch_size, run.max_in_flight, SHOWN * bool(report.grid))
    folders = tuple(map(str, images.data))
    job = EvaluateJob(folders, choice, images.task, method.name, images.noise_std, seed, *bounds, split=images.split)
    used = dict(settings) if mixture else used_settings(*parts, settings)
    about = model.about(method.regressor) | images.about() | what | {"settings": used} | report.about()
    items = [Item(i, name, id) for i, (name, id) in enumerate(zip(unique(data.ids), data.ids, strict=True))]
    sheet: dict[int, Mapping[str, bytes]] = {}
    delivery = Delivery(
        *(job, items, run, out, about, lambda item: data.digest(item.index)),
        save=lambda done: sheet.update({done.index: done.pngs} if done.pngs else {}),
    )
    if records := delivery():
        mean = summarise(records)
        print(f"{method.name} on {images.task}: {figures(mean)}; written to {out}")
        if quality := mean.get("severity_quality"):
            names = {"spearman": "spearman", "median ratio": "median_ratio", "spread": "true_spread"}
            print(f"severity: {figures({name: quality[key] for name, key in names.items()})}")
    if report.grid is not None and sheet:
        _save([sheet[index] for index in sorted(sheet)], report.grid)
    return delivery.failures.finish(len(items))


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


def _save(columns: list[Mapping[str, bytes]], path: Path) -> None:
    """Write the sheet: a column per image; clean, measured, restored."""
    import torch

    from flashdiffusion.data import decode_image, save_grid
    from flashdiffusion.data.images import to_tensor

    kinds = ("clean", "measured", "restored")
    save_grid([torch.stack([to_tensor(decode_image(one[kind], kind)) for one in columns]) for kind in kinds], path)
