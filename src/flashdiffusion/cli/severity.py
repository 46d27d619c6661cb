"""`flashdiffusion severity`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from flashdiffusion.cli.command import option
from flashdiffusion.cli.inputs import Failures, keep_inputs, named
from flashdiffusion.cli.options import Fit, Inputs, Json, Maps, ModelOptions, NoiseStdOrAuto, Physics, noise_level
from flashdiffusion.cli.tables import print_records, write_csv
from flashdiffusion.errors import note


def command(
    inputs: Inputs,
    model: ModelOptions,
    physics: Physics = None,
    noise_std: NoiseStdOrAuto = None,
    fit: Fit = False,
    sort: Annotated[bool, option("Print the most damaged image first.", "--sort")] = False,
    csv: Annotated[Path | None, option("Write the table to this CSV file too.")] = None,
    maps: Maps = None,
    as_json: Json = False,
) -> int:
    """How badly damaged is each image, as a whole? Prints the severity, and the timestep at which Flash starts."""
    from flashdiffusion.data import ensure_directory, ensure_file
    from flashdiffusion.data.images import save_image
    from flashdiffusion.jobs import Item
    from flashdiffusion.jobs.reading import Reader
    from flashdiffusion.jobs.records import Record
    from flashdiffusion.severity import map_picture

    files, std = named(inputs), noise_level(noise_std)
    if csv is not None:
        ensure_file(csv)
    if maps is not None:
        keep_inputs(files, maps, ".png")
        ensure_directory(maps)
    model = model.of_pictures(fit)
    pipeline = model.choice().open()
    reader = Reader(pipeline, physics, std, fit=fit)
    records, failures = [], Failures()
    for n, (name, path) in enumerate(files.items()):
        item = Item(n, name, str(path))
        with failures.kept(path):
            problem = reader(item)
            severity, time = pipeline.begin(problem, [name])
            size = problem.image.shape[2:]
            if maps is not None:
                own = severity.map if problem.padding is None else problem.padding.crop_map(severity.map)
                save_image(map_picture(own[0, 0], (size[0], size[1])), maps / f"{name}.png")
            known = Record(name, noise_std=item.noise_std, file=str(path))
            records.append(replace(known, severity=float(severity.var), start_step=int(time)))
        for text in item.notes:
            note(text)
    if sort:
        records.sort(key=lambda record: -(record.severity or 0))
    if records:
        print_records(f"severity, model {model.name}", records, as_json, {"model": model.name})
        if csv is not None:
            write_csv(csv, records)
    return failures.finish(len(files))
