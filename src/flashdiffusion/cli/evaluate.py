"""`flashdiffusion evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from flashdiffusion.cli import options
from flashdiffusion.cli.cells import ReportOptions, TasksOptions, measure_cells
from flashdiffusion.cli.command import option
from flashdiffusion.cli.tables import figures, print_table

if TYPE_CHECKING:
    from flashdiffusion.reports import Cell


def command(
    images: TasksOptions,
    out: Annotated[Path, option("Folder of the results; for one method on one task also a file that ends in .json.")],
    methods: options.MethodsOptions,
    report: ReportOptions,
    model: options.ModelOptions,
    run: options.RunOptions,
    limit: options.Limit = None,
    seed: options.Seed = 0,
) -> int:
    """Measure methods on tasks: a record per image, means with intervals, and every method against the others.

    A method may be `bound`: the autoencoder alone on the true image. `flashdiffusion report` makes a page of it all.
    """
    from flashdiffusion.reports.cells import cells_in
    from flashdiffusion.reports.summary import Summary

    try:
        found = measure_cells(images, out, methods, report, model, run, limit, seed)
    except KeyboardInterrupt:
        if out.is_dir() and (cells := cells_in(out)):
            Summary(cells).write(out)  # of what is finished
        raise
    if out.suffix.lower() == ".json":
        for cell in found.asked:
            _say(cell, model.name)
    elif cells := found.asked + found.others:
        summary = Summary(cells)
        summary.write(out)
        for task in summary.tasks:
            print_table(summary.table(task, f"{task}, model {model.name}"))
        print(f"summary.md, summary.csv, summary.json and records.jsonl are in {out}")
    return found.failures.finish(found.total)


def _say(cell: "Cell", model: str) -> None:
    """What one method came to."""
    print(f"{cell.method} on {cell.task}, model {model}: {figures(cell.mean)}; written to {cell.path}")
    if quality := cell.mean.get("severity_quality"):
        names = {"spearman": "spearman", "median ratio": "median_ratio", "spread": "true_spread"}
        print(f"severity: {figures({name: quality[key] for name, key in names.items()})}")
