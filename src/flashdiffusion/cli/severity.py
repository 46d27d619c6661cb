"""`flashdiffusion severity`."""

from pathlib import Path
from typing import Annotated

import typer

from flashdiffusion.cli.common import load_pipeline, print_records
from flashdiffusion.cli.inputs import Failures, expand, names_of, note
from flashdiffusion.cli.options import Device, Json, Model


def command(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Measurement files, images, or folders of them."),
    ],
    fit: Annotated[bool, typer.Option("--fit", help="Crop and resize images to the model's size.")] = False,
    as_json: Json = False,
    model: Model = None,
    device: Device = None,
) -> None:
    """How badly damaged is each image? Prints the severity and the step that Flash would start at."""
    from flashdiffusion.errors import FlashDiffusionError
    from flashdiffusion.jobs.measured import fitted_size, read_measured
    from flashdiffusion.jobs.records import Record

    files = expand(inputs)
    pipeline = load_pipeline(model, device)
    size = fitted_size(pipeline, fit)
    grid = pipeline.prior.schedule.grid()
    records, failures = [], Failures()
    for path, name in zip(files, names_of(files), strict=True):
        try:
            one = read_measured(path, name, lambda name, shape: None, pipeline.check, size, note)
        except FlashDiffusionError as error:
            failures.reasons.append((str(path), str(error)))
            continue
        var = pipeline.severity(one.problem.image).var.float().cpu()
        records.append(Record(one.name, severity=float(var), start=int(grid.match(var))))
    if records:
        print_records("severity", records, as_json)
    raise typer.Exit(failures.finish(len(files)))
