"""`flashdiffusion ordering`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from flashdiffusion.cli.command import option
from flashdiffusion.cli.inputs import Failures, noted
from flashdiffusion.cli.options import Blind, ModelOptions, OutFile, Seed, TaskOptions, Told
from flashdiffusion.errors import InputError, counted, note

if TYPE_CHECKING:
    from flashdiffusion.physics.tasks import Mixture, Task


@dataclass(frozen=True)
class LevelOptions:
    """What rises from one measurement of an image to the next."""

    over: Annotated[str, option("What is varied: the task's level, or the noise.")] = "level"
    low: Annotated[float | None, option("Mildest level; default: the task's, or no noise.")] = None
    high: Annotated[float | None, option("Worst level; default: the task's, or noise of 0.2.")] = None
    levels: Annotated[
        int | None,
        option(
            "Evenly spaced levels; default: 10 of `ordering`, 5 of `mine`, or those of a task that has its own "
            "(super-resolution)."
        ),
    ] = None

    def values(self, task: "Task | Mixture", noise_std: float, default: int) -> list[float]:
        """The levels; raises InputError as `ordering_values`."""
        from flashdiffusion.experiments.ordering import ordering_values

        wanted = default if self.levels is None else self.levels
        values = ordering_values(task, wanted, self.over, self.low, self.high, noise_std)
        if self.levels not in {None, len(values)}:
            own = ", ".join(f"{value:g}" for value in values)
            note(f"task {task.name} is measured at its own levels {own}, not {self.levels}")
        return values


def command(
    images: TaskOptions,
    out: OutFile,
    model: ModelOptions,
    levels: LevelOptions,
    limit: Annotated[int, option("Number of images.")] = 100,
    blind: Blind = False,
    told: Told = None,
    seed: Seed = 0,
) -> int:
    """Ordering accuracy of the severity encoder: does severity rise with the degradation?"""
    from flashdiffusion.data import ensure_file, write_json
    from flashdiffusion.experiments import measure_ordering
    from flashdiffusion.experiments.ordering import LEVELS, level_name, summarise
    from flashdiffusion.jobs.evaluate import open_data
    from flashdiffusion.jobs.records import made_by
    from flashdiffusion.physics import get_task
    from flashdiffusion.progress import tracked

    task = get_task(images.task)
    values = levels.values(task, images.noise_std, LEVELS)
    ensure_file(out)
    if blind and told is not None:
        raise InputError(f"--blind and --told {told}: nothing is told to a blind encoder; expected one or the other")
    pipeline = model.choice(told=told).open()
    data = noted(open_data(pipeline, images.data, limit, split=images.split))
    rows, failures = [], Failures()
    found = measure_ordering(pipeline, data, task, images.noise_std, values, seed, levels.over, blind)
    for row in tracked(found, len(data), "measuring"):
        if row.failed is None:
            rows.append(row)
        else:
            failures.reasons.append((row.id, row.failed))
    if rows:
        result = summarise(rows, values, level_name(task, levels.over))
        std = images.noise_std if levels.over == "level" else None
        about = model.about() | images.about() | {"over": levels.over, "noise_std": std, "seed": seed}
        about |= {"blind": blind, "told": told, "limit": limit}
        write_json(out, made_by(pipeline.prior.device, about) | result)
        accuracy = f"{result['ordering_accuracy']:.4f} over {counted(len(rows), 'image')} and {len(values)} levels"
        print(f"ordering accuracy {accuracy}; written to {out}")
    return failures.finish(len(data))
