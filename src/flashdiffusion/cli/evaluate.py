"""`flashdiffusion evaluate`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flashdiffusion.cli.common import check_used, given_settings, load_pipeline, open_data, shown
from flashdiffusion.cli.inputs import Failures
from flashdiffusion.cli.options import (
    Capacity,
    Correction,
    Delta,
    Device,
    Eta,
    Gamma,
    Mixing,
    Model,
    NoiseStd,
    Omega,
    Precision,
    Proximal,
    Regressor,
    Seed,
    StartStep,
    Steps,
)

GRID = 16  # pictures on the sheet of --grid


def command(
    data: Annotated[list[Path], typer.Option(help="Folder of pictures or .tar shard; repeat for more.")],
    out: Annotated[Path, typer.Option(help="Results file (JSON).")],
    task: Annotated[str, typer.Option(help="Task, e.g. gaussian-blur or random-inpainting.")] = "gaussian-blur",
    method: Annotated[
        str, typer.Option(help='"flash(latent-dps)", psld, ae, swinir, ..., or bound (the autoencoder alone).')
    ] = "flash(latent-dps)",
    limit: Annotated[int | None, typer.Option(help="Number of pictures; default: all.")] = None,
    noise_std: NoiseStd = 0.05,
    lpips: Annotated[Path | None, typer.Option(help="LPIPS weights (safetensors); without: no LPIPS.")] = None,
    grid: Annotated[Path | None, typer.Option(help="Write clean, measured and restored pictures as a PNG.")] = None,
    eta: Eta = None,
    correction: Correction = None,
    omega: Omega = None,
    gamma: Gamma = None,
    proximal: Proximal = None,
    start_step: StartStep = None,
    mixing: Mixing = None,
    preset: Annotated[
        str, typer.Option(help="Settings: tuned, or published for 256x256 pictures: FFHQ or LSUN.")
    ] = "tuned",
    steps: Steps = None,
    delta: Delta = None,
    batch_size: Annotated[int, typer.Option(help="Pictures loaded at a time.")] = 64,
    capacity: Capacity = 16,
    model: Model = None,
    device: Device = None,
    precision: Precision = "float32",
    regressor: Regressor = None,
    seed: Seed = 0,
) -> None:
    """Measure a method on a task: one record per picture and the means, as JSON."""
    given = given_settings(locals())
    from dataclasses import asdict, replace

    from flashdiffusion.data import ensure_file, save_grid, write_json
    from flashdiffusion.errors import InputError, unknown_name
    from flashdiffusion.experiments import Record, evaluate, report, summarise
    from flashdiffusion.experiments.evaluate import BOUND
    from flashdiffusion.methods import parse_method
    from flashdiffusion.metrics import LPIPS
    from flashdiffusion.physics import get_task
    from flashdiffusion.presets import PUBLISHED_PICTURES, preset_for, published_for

    chosen = get_task(task)
    start, solver = ("estimate", "prior") if method == BOUND else parse_method(method, [BOUND])
    check_used(given, method, start, solver)
    if preset not in {"tuned", *PUBLISHED_PICTURES}:
        raise unknown_name("preset", preset, ["tuned", *PUBLISHED_PICTURES])
    if grid is not None and grid.suffix.lower() != ".png":
        raise InputError(f"grid is {grid}; expected a name that ends in .png")
    for path in (out, grid):
        if path is not None:
            ensure_file(path)
    settings = preset_for(task, start, solver, steps)
    if preset != "tuned":
        settings = published_for(task, start, solver, preset)
    settings = replace(settings, **given)
    network = LPIPS.from_file(lpips) if lpips else None
    pipeline = load_pipeline(model, device, precision, regressor)
    pictures = open_data(pipeline, data, limit)
    parts = evaluate(
        pipeline,
        pictures,
        chosen,
        method,
        noise_std=noise_std,
        seed=seed,
        settings=settings,
        lpips=network,
        batch_size=batch_size,
        capacity=capacity,
        progress=True,
    )
    about = {
        "model": model or "embedded",
        "precision": precision,
        "task": task,
        "method": method,
        "noise_std": noise_std,
        "seed": seed,
        "settings": asdict(settings),
        "lpips_net": network.net if network else None,
    }
    failures = Failures()
    records: list[Record] = []
    for part in parts:
        failures.reasons += part.failed
        if grid is not None and not records and part.records:
            save_grid([part.clean[:GRID], part.measured[:GRID], part.restored[:GRID]], grid)
        records += part.records
        write_json(out, report(sys.argv[1:], pipeline.prior.device, about, records))
    mean = summarise(records)
    figures = ", ".join(f"{key} {shown(value)}" for key, value in mean.items() if isinstance(value, (int, float)))
    print(f"{method} on {task}: {figures}; written to {out}")
    if (quality := mean.get("severity_quality")) is not None:
        names = {"spearman": "spearman", "median ratio": "median_ratio", "spread": "true_spread"}
        print("severity: " + ", ".join(f"{name} {shown(quality[key])}" for name, key in names.items()))
    raise typer.Exit(failures.finish(len(pictures)))
