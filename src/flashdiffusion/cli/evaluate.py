"""`flashdiffusion evaluate`."""

import sys
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashdiffusion.cli.command import with_options
from flashdiffusion.cli.common import check_used, shown
from flashdiffusion.cli.delivery import Delivery, Engine
from flashdiffusion.cli.inputs import note
from flashdiffusion.cli.options import MethodSettings, ModelOptions, NoiseStd, RunOptions

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiffusion.jobs import Done

GRID = 16  # images on the sheet of --grid


@dataclass(frozen=True)
class ReportOptions:
    """What is measured and shown beside the usual."""

    lpips: Annotated[Path | None, typer.Option(help="LPIPS weights (safetensors); without: no LPIPS.")] = None
    grid: Annotated[Path | None, typer.Option(help="Write clean, measured and restored images as a PNG.")] = None
    preset: Annotated[str, typer.Option(help="Settings: tuned, or published for 256x256 images: FFHQ or LSUN.")] = (
        "tuned"
    )
    batch_size: Annotated[int, typer.Option(help="Images loaded at a time.")] = 64


@with_options
def command(
    data: Annotated[list[Path], typer.Option(help="Folder of images or .tar shard; repeat for more.")],
    out: Annotated[Path, typer.Option(help="Results file (JSON).")],
    shown_too: ReportOptions,
    choice: ModelOptions,
    run: RunOptions,
    settings: MethodSettings,
    task: Annotated[str, typer.Option(help="Task, e.g. gaussian-blur or random-inpainting.")] = "gaussian-blur",
    method: Annotated[
        str, typer.Option(help='"flash(latent-dps)", psld, ae, swinir, ..., or bound (the autoencoder alone).')
    ] = "flash(latent-dps)",
    limit: Annotated[int | None, typer.Option(help="Number of images; default: all.")] = None,
    noise_std: NoiseStd = 0.05,
) -> None:
    """Measure a method on a task: one record per image and the means, as JSON."""
    given = settings.given
    lpips, grid, preset, batch_size = astuple(shown_too)
    model, device, precision, regressor = astuple(choice)
    seed, resume, max_in_flight, engine, workers, address, compile = astuple(run)
    from flashdiffusion.data import ImageDataset, ensure_file
    from flashdiffusion.data.files import unique
    from flashdiffusion.errors import InputError, unknown_name
    from flashdiffusion.jobs import EvaluateJob, Item, ModelChoice
    from flashdiffusion.jobs.inputs import place as place_of
    from flashdiffusion.jobs.journal import Journal
    from flashdiffusion.jobs.lock import locked
    from flashdiffusion.jobs.measuring import BOUND
    from flashdiffusion.jobs.records import report, summarise
    from flashdiffusion.methods import Settings, parse_method, used_settings
    from flashdiffusion.metrics import Metrics
    from flashdiffusion.physics import Mixture, get_task
    from flashdiffusion.presets import PUBLISHED_IMAGES, preset_for, published_for

    place = Engine(engine, workers, address)
    mixture = isinstance(get_task(task), Mixture)
    start, solver = ("estimate", "prior") if method == BOUND else parse_method(method, [BOUND])
    check_used(given, method, start, solver)
    if preset not in {"tuned", *PUBLISHED_IMAGES}:
        raise unknown_name("preset", preset, ["tuned", *PUBLISHED_IMAGES])
    if grid is not None and grid.suffix.lower() != ".png":
        raise InputError(f"grid is {grid}; expected a name that ends in .png")
    for path in (out, grid):
        if path is not None:
            ensure_file(path)
    if preset != "tuned":
        chosen = published_for(task, start, solver, preset) | given
    elif mixture:
        chosen = Settings(**given)  # for the rest each image takes those of its own degradation
    else:
        chosen = preset_for(ModelChoice(model).presets, task, start, solver, given.get("steps")) | given
    weights = {"lpips": str(lpips)} if lpips else {}
    nets = Metrics(weights).nets
    images = ImageDataset(data, 1, limit)
    for text in images.notes:
        note(text)
    ids = images.ids
    job = EvaluateJob(
        tuple(str(path) for path in data),
        ModelChoice(model, device, precision, regressor, compile),
        task,
        method,
        noise_std,
        seed,
        chosen,
        limit,
        weights,
        batch_size,
        max_in_flight,
        GRID if grid is not None else 0,
    )
    about = {
        "model": place_of(model) or "embedded",
        "precision": precision,
        "task": task,
        "method": method,
        "noise_std": noise_std,
        "seed": seed,
        "settings": dict(chosen) if mixture else used_settings(start, solver, chosen),
        "regressor": place_of(regressor),
        "data": [place_of(path) for path in data],
        "lpips_net": None,
    } | nets
    items = [Item(i, name, id) for i, (name, id) in enumerate(zip(unique(ids), ids, strict=True))]
    with locked(out):
        journal = Journal(out, about, resume)
        delivery = Delivery(journal, items)
        missing = [item for item in items if item.name not in journal.done]
        sheet: dict[int, dict[str, Tensor]] = {}
        delivery.take(place.run(job, missing), lambda done: _look(done, sheet))
        records = delivery.finish(
            lambda records, failed: report(sys.argv[1:], job.model.torch_device, about, records, failed)
        )
        if grid is not None and sheet:
            _save(sheet, grid)
        if records:
            _say(f"{method} on {task}", summarise(records), out)
        raise typer.Exit(delivery.failures.finish(len(items)))


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
