"""`flashdiffusion ordering`."""

import sys
from typing import Annotated

import typer

from flashdiffusion.cli.common import noted
from flashdiffusion.cli.inputs import Failures
from flashdiffusion.cli.options import ModelOptions, OutFile, Seed, TaskOptions
from flashdiffusion.errors import note


def command(
    images: TaskOptions,
    out: OutFile,
    model: ModelOptions,
    over: Annotated[str, typer.Option(help="What is varied: the task's level, or the noise.")] = "level",
    low: Annotated[float | None, typer.Option(help="Mildest level; default: the task's, or no noise.")] = None,
    high: Annotated[float | None, typer.Option(help="Worst level; default: the task's, or noise of 0.2.")] = None,
    levels: Annotated[
        int | None,
        typer.Option(help="Evenly spaced levels; default: 10, or those of a task that has its own (super-resolution)."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of images.")] = 100,
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

    chosen = get_task(images.task)
    values = ordering_values(chosen, LEVELS if levels is None else levels, over, low, high, images.noise_std)
    if levels not in {None, len(values)}:
        own = ", ".join(f"{value:g}" for value in values)
        note(f"task {images.task} is measured at its own levels {own}, not {levels}")
    ensure_file(out)
    pipeline = model.choice().open()
    data = noted(open_data(pipeline, images.data, limit))
    found = tqdm(
        measure_ordering(pipeline, data, chosen, images.noise_std, values, seed, over),
        total=len(data),
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
            "model": model.model or "embedded",
            "task": images.task,
            "over": over,
            "noise_std": images.noise_std if over == "level" else None,
            "seed": seed,
            "ordering_accuracy": round(accuracy, 5),
            "levels": [{varied: v, "mean_severity": m} for v, m in zip(values, severities, strict=True)],
            "records": [{"id": r.id, "accuracy": r.accuracy, "severities": r.severities} for r in rows],
        }
        write_json(out, result)
        print(f"ordering accuracy {accuracy:.4f} over {len(rows)} images and {len(values)} levels; written to {out}")
    raise typer.Exit(failures.finish(len(data)))
