"""`flashdiffusion evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashdiffusion.cli.common import nets_of, noted, shown, start_and_solver
from flashdiffusion.cli.delivery import Delivery, check_engine
from flashdiffusion.cli.options import Limit, Lpips, MethodOptions, ModelOptions, OutFile, RunOptions, Seed, TaskOptions
from flashdiffusion.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiffusion.jobs import Done
    from flashdiffusion.methods import Settings

SHOWN = 16  # images on the sheet of --grid


@dataclass(frozen=True)
class ReportOptions:
    """What is measured and shown, and with which settings."""

    lpips: Lpips = None
    grid: Annotated[Path | None, typer.Option(help="Write clean, measured and restored images as a PNG.")] = None
    preset: Annotated[str, typer.Option(help="Settings: tuned, or published for 256x256 images: FFHQ or LSUN.")] = (
        "tuned"
    )
    batch_size: Annotated[int, typer.Option(help="Images loaded at a time.")] = 64


def command(
    images: TaskOptions,
    out: OutFile,
    method: MethodOptions,
    options: ReportOptions,
    model: ModelOptions,
    run: RunOptions,
    limit: Limit = None,
    seed: Seed = 0,
) -> None:
    """Measure a method on a task: one record per image and the means, as JSON. The method may be `bound`."""
    from flashdiffusion.data import ImageDataset, ensure_file
    from flashdiffusion.data.files import unique
    from flashdiffusion.jobs import EvaluateJob, Item
    from flashdiffusion.jobs.records import summarise
    from flashdiffusion.methods import used_settings
    from flashdiffusion.physics import Mixture, get_task

    check_engine(run)
    mixture = isinstance(get_task(images.task), Mixture)
    start, solver = start_and_solver(method, bound=True)
    if options.grid is not None and options.grid.suffix.lower() != ".png":
        raise InputError(f"grid is {options.grid}; expected a name that ends in .png")
    choice = model.choice(method.regressor, run.compile)
    chosen = _settings(options.preset, images.task, (start, solver), choice.presets, method.given)
    for path in (out, options.grid):
        if path is not None:
            ensure_file(path)
    weights = {"lpips": str(options.lpips)} if options.lpips else {}
    data = noted(ImageDataset(images.data, 1, limit))
    job = EvaluateJob(
        tuple(str(path) for path in images.data),
        choice,
        images.task,
        method.method,
        images.noise_std,
        seed,
        chosen,
        limit,
        weights,
        options.batch_size,
        run.max_in_flight,
        SHOWN if options.grid is not None else 0,
    )
    about: dict[str, Any] = {
        **model.about(method.regressor),
        **images.about(),
        "method": method.method,
        "seed": seed,
        "settings": dict(chosen) if mixture else used_settings(start, solver, chosen),
        **nets_of(weights),
    }
    items = [Item(i, name, id) for i, (name, id) in enumerate(zip(unique(data.ids), data.ids, strict=True))]
    sheet: dict[int, dict[str, Tensor]] = {}
    delivery = Delivery(
        job, items, run, out, about, lambda item: data.digest(item.index), lambda done: _look(done, sheet)
    )
    records = delivery()
    if options.grid is not None and sheet:
        _save(sheet, options.grid)
    if records:
        _say(f"{method.method} on {images.task}", summarise(records), out)
    raise typer.Exit(delivery.failures.finish(len(items)))


def _settings(preset: str, task: str, method: tuple[str, str], presets: Any, given: dict[str, Any]) -> "Settings":
    """The settings given, over those of the preset; of a mixture each image takes those of its own degradation.

    Raises:
        InputError: unknown preset.
    """
    from flashdiffusion.methods import Settings
    from flashdiffusion.physics import Mixture, get_task
    from flashdiffusion.presets import PUBLISHED_IMAGES, preset_for, published_for

    if preset in PUBLISHED_IMAGES:
        return published_for(task, *method, preset) | given
    if preset != "tuned":
        raise unknown_name("preset", preset, ["tuned", *PUBLISHED_IMAGES])
    if isinstance(get_task(task), Mixture):
        return Settings(**given)
    return preset_for(presets, task, *method, given.get("steps")) | given


def _look(done: "Done", sheet: "dict[int, dict[str, Tensor]]") -> None:
    """Keep what the sheet shows."""
    from flashdiffusion.data import decode_image
    from flashdiffusion.data.images import to_tensor

    if done.pngs:
        sheet[done.index] = {kind: to_tensor(decode_image(png, kind)) for kind, png in done.pngs.items()}


def _save(sheet: "dict[int, dict[str, Tensor]]", path: Path) -> None:
    """Write the sheet: a column per image; clean, measured, restored."""
    import torch

    from flashdiffusion.data import save_grid

    columns = [sheet[index] for index in sorted(sheet)]
    save_grid([torch.stack([column[kind] for column in columns]) for kind in ("clean", "measured", "restored")], path)


def _say(title: str, mean: dict[str, Any], out: Path) -> None:
    figures = ", ".join(f"{key} {shown(value)}" for key, value in mean.items() if isinstance(value, (int, float)))
    print(f"{title}: {figures}; written to {out}")
    if (quality := mean.get("severity_quality")) is not None:
        names = {"spearman": "spearman", "median ratio": "median_ratio", "spread": "true_spread"}
        print("severity: " + ", ".join(f"{name} {shown(quality[key])}" for name, key in names.items()))
