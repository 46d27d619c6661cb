"""`flashdiffusion ordering`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flashdiffusion.cli.common import load_pipeline
from flashdiffusion.cli.options import Device, Model, NoiseStd, Seed


def command(
    data: Annotated[list[Path], typer.Option(help="Folder of pictures or .tar shard; repeat for more.")],
    out: Annotated[Path, typer.Option(help="Results file (JSON).")],
    task: Annotated[str, typer.Option(help="Task whose level is varied.")] = "gaussian-blur",
    noise_std: NoiseStd = 0.05,
    levels: Annotated[int, typer.Option(help="Evenly spaced levels.")] = 10,
    limit: Annotated[int, typer.Option(help="Number of pictures.")] = 100,
    model: Model = None,
    device: Device = None,
    seed: Seed = 0,
) -> None:
    """Ordering accuracy of the severity encoder: does severity rise with the level of degradation?"""
    from dataclasses import asdict

    import torch
    from tqdm import tqdm

    from flashdiffusion.cli.evaluate import open_data
    from flashdiffusion.data import ensure_directory, write_json
    from flashdiffusion.experiments import environment, measure_ordering
    from flashdiffusion.experiments.ordering import ordering_levels
    from flashdiffusion.physics import get_task

    chosen = get_task(task)
    values = ordering_levels(chosen, levels)
    ensure_directory(out.parent)
    pipeline = load_pipeline(model, device)
    pictures = open_data(pipeline, data, limit)
    rows = list(
        tqdm(
            measure_ordering(pipeline, pictures, chosen, noise_std, levels, seed),
            total=len(pictures),
            unit="picture",
        )
    )
    severities = torch.tensor([row.severities for row in rows])
    accuracy = sum(row.accuracy for row in rows) / len(rows)
    result = {
        "command": ["flashdiffusion", *sys.argv[1:]],
        "environment": environment(),
        "task": task,
        "noise_std": noise_std,
        "seed": seed,
        "ordering_accuracy": round(accuracy, 5),
        "levels": [
            {chosen.level: round(v, 4), "mean_severity": m}
            for v, m in zip(values, severities.mean(0).tolist(), strict=True)
        ],
        "records": [asdict(row) for row in rows],
    }
    write_json(out, result)
    print(f"ordering accuracy {accuracy:.4f} over {len(rows)} pictures and {levels} levels; written to {out}")
