"""`flashdiffusion severity`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from flashdiffusion.cli.command import option
from flashdiffusion.cli.inputs import Failures, SharedNotes, keep_inputs, named
from flashdiffusion.cli.options import (
    Fit,
    Inputs,
    Json,
    Maps,
    NoiseStdOrAuto,
    Physics,
    PictureModelOptions,
    Tile,
)
from flashdiffusion.cli.tables import print_records, write_csv
from flashdiffusion.errors import FlashDiffusionError, InputError, note

FAR_ABOVE = 2.0  # times the severity at which nothing is known
BEYOND = (
    "have a severity far above 1, at which nothing is known: the encoder takes its estimate to be further from the "
    "true picture than pure noise would be, and its figure means little; check that they are of the kind that the "
    "model knows and that --physics, if it is given, is what damaged them"
)
UNTOLD = (
    "--sort compares pictures that --physics damaged: of one that it did not damage, such as a sharp one that is said "
    "to be blurred, the severity means little and is often the highest; without --physics every picture is judged as "
    "it is"
)


def command(
    inputs: Inputs,
    model: PictureModelOptions,
    physics: Physics = None,
    noise_std: NoiseStdOrAuto = None,
    fit: Fit = False,
    sort: Annotated[bool, option("Print the most damaged image first.", "--sort")] = False,
    csv: Annotated[Path | None, option("Write the table to this CSV file too.")] = None,
    maps: Maps = None,
    as_json: Json = False,
    tile: Tile = None,
) -> int:
    """How badly damaged is each image? Prints the severity, and the timestep at which Flash starts.

    Large pictures are looked at in the tiles that restore takes.
    """
    from flashdiffusion.data import ensure_directory, ensure_file, write_bytes
    from flashdiffusion.jobs import Item
    from flashdiffusion.jobs.parse import noise_level
    from flashdiffusion.jobs.reading import Reader
    from flashdiffusion.pipeline import Batch, Failed
    from flashdiffusion.record import Record
    from flashdiffusion.severity import encoded_map

    files, std = named(inputs), noise_level(noise_std)
    if csv is not None:
        ensure_file(csv)
    if maps is not None:
        keep_inputs(files, maps, ".png")
        ensure_directory(maps)
    model = model.chosen(fit)
    pipeline = model.choice().open()
    reader = Reader(pipeline, physics, std, fit=fit, tile=tile)

    def read() -> Iterator[Batch | Failed]:
        for n, (name, path) in enumerate(files.items()):
            item = Item(n, name, str(path))
            try:
                problem = reader(item)
            except FlashDiffusionError as error:
                yield Failed(name, str(error), (item, None))
                continue
            yield Batch.of([name], problem, extra=[(item, problem)])

    records, failures, shared = [], Failures(), SharedNotes()
    for one in pipeline.begin(read(), tile=tile, progress=True, total=len(files)):
        item, problem = one.extra
        for text in item.notes:
            note(text)
        shared.add(item.shared, item.index)
        with failures.kept(item.path):
            if one.failed is not None:
                raise InputError(one.failed)
            if maps is not None and one.severity_map is not None:
                size = problem.image.shape[2:] if one.tiles is None else one.tiles.size
                write_bytes(maps / f"{one.id}.png", encoded_map(one.severity_map, (size[0], size[1])))
            known = Record(one.id, noise_std=item.noise_std, file=item.path)
            records.append(replace(known, severity=one.severity, start_step=one.start_step))
            if one.severity is not None and one.severity > FAR_ABOVE:
                shared.add({BEYOND: f"{item.path}, {one.severity:.3g}"}, item.index)
    shared.say(len(files))
    if sort:
        if physics is not None and len(records) > 1:
            note(UNTOLD)
        records.sort(key=lambda record: -(record.severity or 0))
    if records:
        print_records(f"severity, model {model.name}", records, as_json, {"model": model.name})
        if csv is not None:
            write_csv(csv, records)
    return failures.finish(len(files))
