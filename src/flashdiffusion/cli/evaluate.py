"""`flashdiffusion evaluate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashdiffusion.cli.common import load_pipeline, override
from flashdiffusion.cli.options import Capacity, Correction, Delta, Device, Eta, Model, NoiseStd, Seed, Steps

if TYPE_CHECKING:
    from flashdiffusion.data import PictureDataset
    from flashdiffusion.pipeline import FlashPipeline


def open_data(pipeline: "FlashPipeline", data: list[Path], limit: int | None) -> "PictureDataset":
    """Pictures at the size the model was trained on."""
    from flashdiffusion.data import PictureDataset
    from flashdiffusion.errors import InputError

    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1")
    if pipeline.sample_size is None:
        raise InputError("the model's folder does not say its picture size; expected sample_size in model_index.json")
    return PictureDataset(data, pipeline.sample_size, limit)


def command(
    data: Annotated[list[Path], typer.Option(help="Folder of pictures or .tar shard; repeat for more.")],
    out: Annotated[Path, typer.Option(help="Results file (JSON).")],
    task: Annotated[
        str, typer.Option(help="gaussian-blur, gaussian-blur-fixed or random-inpainting.")
    ] = "gaussian-blur",
    method: Annotated[
        str, typer.Option(help='"flash(latent-dps)", latent-dps, ae, or bound (the autoencoder alone).')
    ] = "flash(latent-dps)",
    limit: Annotated[int | None, typer.Option(help="Number of pictures; default: all.")] = None,
    noise_std: NoiseStd = 0.05,
    lpips: Annotated[Path | None, typer.Option(help="LPIPS weights (safetensors); without: no LPIPS.")] = None,
    grid: Annotated[Path | None, typer.Option(help="Write clean, measured and restored pictures as a PNG.")] = None,
    eta: Eta = None,
    correction: Correction = None,
    steps: Steps = None,
    delta: Delta = None,
    mixing: Annotated[str, typer.Option(help="Start rule: paper or consistent.")] = "paper",
    batch_size: Annotated[int, typer.Option(help="Pictures loaded at a time.")] = 64,
    capacity: Capacity = 16,
    model: Model = None,
    device: Device = None,
    seed: Seed = 0,
) -> None:
    """Measure a method on a task: one record per picture and the means, as JSON."""
    from dataclasses import asdict, replace

    import torch

    from flashdiffusion.data import ensure_directory, save_grid, write_json
    from flashdiffusion.experiments import environment, evaluate, summarise
    from flashdiffusion.metrics import LPIPS
    from flashdiffusion.physics import get_task
    from flashdiffusion.presets import preset_for_name

    chosen = get_task(task)
    ensure_directory(out.parent)
    settings = replace(override(preset_for_name(chosen.physics), eta, correction, steps, delta), mixing=mixing)
    network = LPIPS.from_file(lpips) if lpips else None
    pipeline = load_pipeline(model, device)
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
    done = list(parts)
    records = [record for part in done for record in part.records]
    mean = summarise(records)
    write_json(
        out,
        {
            "command": ["flashdiffusion", *sys.argv[1:]],
            "environment": environment(),
            "task": task,
            "method": method,
            "noise_std": noise_std,
            "seed": seed,
            "settings": asdict(settings),
            "lpips_net": network.net if network else None,
            "mean": mean,
            "records": [record.to_json() for record in records],
        },
    )
    if grid is not None:
        rows = [torch.cat([getattr(part, name) for part in done])[:16] for name in ("clean", "measured", "restored")]
        save_grid(rows, grid)
    shown = ", ".join(f"{key} {value:.4g}" for key, value in mean.items() if isinstance(value, (int, float)))
    print(f"{method} on {task}: {shown}; written to {out}")
    if "severity_quality" in mean:
        print(f"severity: {mean['severity_quality']}")
