"""`flashdiffusion ordering`."""

from typing import Annotated

from flashdiffusion.cli.command import option
from flashdiffusion.cli.inputs import Failures, noted
from flashdiffusion.cli.options import Blind, ModelOptions, OutFile, Seed, TaskOptions
from flashdiffusion.errors import note


def command(
    images: TaskOptions,
    out: OutFile,
    model: ModelOptions,
    over: Annotated[str, option("What is varied: the task's level, or the noise.")] = "level",
    low: Annotated[float | None, option("Mildest level; default: the task's, or no noise.")] = None,
    high: Annotated[float | None, option("Worst level; default: the task's, or noise of 0.2.")] = None,
    levels: Annotated[
        int | None, option("Evenly spaced levels; default: 10, or those of a task that has its own (super-resolution).")
    ] = None,
    limit: Annotated[int, option("Number of images.")] = 100,
    blind: Blind = False,
    seed: Seed = 0,
) -> int:
    """Ordering accuracy of the severity encoder: does severity rise with the degradation?"""
    from tqdm import tqdm

    from flashdiffusion.data import ensure_file, write_json
    from flashdiffusion.experiments import measure_ordering
    from flashdiffusion.experiments.ordering import LEVELS, ordering_values, summarise
    from flashdiffusion.jobs.evaluate import open_data
    from flashdiffusion.jobs.records import made_by
    from flashdiffusion.physics import get_task

    task = get_task(images.task)
    values = ordering_values(task, LEVELS if levels is None else levels, over, low, high, images.noise_std)
    if levels not in {None, len(values)}:
        own = ", ".join(f"{value:g}" for value in values)
        note(f"task {images.task} is measured at its own levels {own}, not {levels}")
    ensure_file(out)
    pipeline = model.choice().open()
    data = noted(open_data(pipeline, images.data, limit, split=images.split))
    rows, failures = [], Failures()
    found = measure_ordering(pipeline, data, task, images.noise_std, values, seed, over, blind)
    for row in tqdm(found, total=len(data), unit="image"):
        if row.failed is None:
            rows.append(row)
        else:
            failures.reasons.append((row.id, row.failed))
    if rows:
        result = summarise(rows, values, str(task.level) if over == "level" else "noise_std")
        std = images.noise_std if over == "level" else None
        about = model.about() | images.about() | {"over": over, "noise_std": std, "seed": seed, "blind": blind}
        write_json(out, made_by(pipeline.prior.device, about) | result)
        accuracy = f"{result['ordering_accuracy']:.4f} over {len(rows)} images and {len(values)} levels"
        print(f"ordering accuracy {accuracy}; written to {out}")
    return failures.finish(len(data))
