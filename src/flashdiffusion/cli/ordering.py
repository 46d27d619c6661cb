"""`flashdiffusion ordering`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flashdiffusion.cli.common import load_pipeline
from flashdiffusion.cli.inputs import Failures, note
from flashdiffusion.cli.options import Device, Model, NoiseStd, Seed


def command(
    data: Annotated[list[Path], typer.Option(help="Folder of images or .tar shard; repeat for more.")],
    out: Annotated[Path, typer.Option(help="Results file (JSON).")],
    task: Annotated[str, typer.Option(help="Task whose level, or noise, is varied.")] = "gaussian-blur",
    noise_std: NoiseStd = 0.05,
    over: Annotated[str, typer.Option(help="What is varied: the task's level, or the noise.")] = "level",
    low: Annotated[float | None, typer.Option(help="Mildest level; default: the task's, or no noise.")] = None,
    high: Annotated[float | None, typer.Option(help="Worst level; default: the task's, or noise of 0.2.")] = None,
    levels: Annotated[
        int | None,
        typer.Option(help="Evenly spaced levels; default: 10, or those of a task that has its own (super-resolution)."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of images.")] = 100,
    model: Model = None,
    device: Device = None,
    seed: Seed = 0,
) -> None:
    """Ordering accuracy of the severity encoder: does severity rise with the degradation?"""
    import torch
    from tqdm import tqdm

    from flashdiffusion.data import ensure_file, write_json
    from flashdiffusion.experiments import measure_ordering
    from flashdiffusion.experiments.ordering import LEVELS, ordering_values
    from flashdiffusion.jobs.evaluate import open_data
    from flashdiffusion.jobs.records import environment
    from flashdiffusion.physics import get_task

    chosen = get_task(task)
    values = ordering_values(chosen, LEVELS if levels is None else levels, over, low, high, noise_std)
    if levels not in {None, len(values)}:
        own = ", ".join(f"{value:g}" for value in values)
        note(f"task {task} is measured at its own levels {own}, not {levels}")
    ensure_file(out)
    pipeline = load_pipeline(model, device)
    images = open_data(pipeline, data, limit)
    for text in images.notes:
        note(text)
    found = tqdm(
        measure_ordering(pipeline, images, chosen, noise_std, values, seed, over),
        total=len(images),
        unit="image",
    )
    varied = str(chosen.level) if over == "level" else "noise_std"
    rows, failures = [], Failures()
    for row in found:
        if row.failed is None:
            rows.append(row)
        else:
            failures.reasons.append((row.id, row.failed))
    if rows:
        severities = torch.tensor([row.severities for row in rows]).mean(dim=0).tolist()
        accuracy = sum(row.accuracy for row in rows) / len(rows)
        result = {
            "command": ["flashdiffusion", *sys.argv[1:]],
            "environment": environment(pipeline.prior.device),
            "model": model or "embedded",
            "task": task,
            "over": over,
            "noise_std": noise_std if over == "level" else None,
            "seed": seed,
            "ordering_accuracy": round(accuracy, 5),
            "levels": [{varied: v, "mean_severity": m} for v, m in zip(values, severities, strict=True)],
            "records": [{"id": r.id, "accuracy": r.accuracy, "severities": r.severities} for r in rows],
        }
        write_json(out, result)
        print(f"ordering accuracy {accuracy:.4f} over {len(rows)} images and {len(values)} levels; written to {out}")
    raise typer.Exit(failures.finish(len(images)))
