"""`flashdiffusion degrade`."""

from collections.abc import Mapping
from functools import partial
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashdiffusion.cli.command import option
from flashdiffusion.cli.inputs import Failures, SharedNotes, keep_inputs, named
from flashdiffusion.cli.options import NoiseStd, Out, Physics, Seed
from flashdiffusion.cli.references import relative_name
from flashdiffusion.errors import InputError, counted, note, sized

FITTED = 128  # pixels a side of the images of faces-128

if TYPE_CHECKING:
    from flashdiffusion.jobs.degrading import Made
    from flashdiffusion.record import Record


def command(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images or folders of images.")],
    out: Out,
    physics: Physics = None,
    task: Annotated[str, option("Without --physics: draw its parameters from this task.")] = "gaussian-blur",
    noise_std: NoiseStd = 0.05,
    fit: Annotated[
        bool, option(f"Crop to a square and resize to {FITTED} pixels, the size of faces-128.", "--fit")
    ] = False,
    size: Annotated[int, option("Crop to a square and resize to this side; 0 keeps the size.")] = 0,
    seed: Seed = 0,
) -> int:
    """Degrade images: writes NAME.safetensors (the exact measurement), NAME.png (to look at) and degrade.json.

    Each keeps its own size, and its kind: grey or colour, 8 or 16 bits, alpha, colour profile. For super-resolution it
    is cut, below and to the right, to sides that the factor divides.
    """
    import torch

    from flashdiffusion.data import ensure_directory, write_json
    from flashdiffusion.data.images import LARGEST_AREA
    from flashdiffusion.data.measurements import SUFFIX
    from flashdiffusion.jobs.degrading import degraded, physics_maker
    from flashdiffusion.jobs.lock import locked
    from flashdiffusion.jobs.parse import reads_mask, takes_alpha
    from flashdiffusion.jobs.reading import MASKED, read_noted
    from flashdiffusion.jobs.records import report
    from flashdiffusion.pipeline.inputs import lost_share
    from flashdiffusion.seeds import image_generator

    if size < 0 or size * size > LARGEST_AREA:
        raise InputError(
            f"size is {size}; expected a side of 1 to {isqrt(LARGEST_AREA)} pixels, or 0 to keep each image's own"
        )
    size = size or (FITTED if fit else 0)
    make_physics = physics_maker(physics, task, noise_std)
    files = named(inputs)
    if physics:
        _check(physics, [*files.values()])
    like = make_physics(next(iter(files.values())), (1, 1), (1, 1), image_generator(seed, ""))  # refused for all, once
    keep_inputs(files, out, ".png", SUFFIX)
    folder = ensure_directory(out)
    failures, records, opaque = Failures(), [], physics is not None and takes_alpha(physics)
    masked = physics is not None and reads_mask(physics)
    cut, shared = list[str](), SharedNotes()
    with locked(folder / "degrade.json"):
        _note_earlier(folder, files)
        for index, (name, path) in enumerate(files.items()):
            with failures.kept(path):
                source = relative_name(path, inputs).as_posix()
                picture = read_noted(path, note)
                if opaque:
                    picture = picture.opaque()
                draw = partial(image_generator, seed, name)
                made = degraded(path, picture, size, make_physics, draw, like if physics else None)
                if (given := (size, size) if size else picture.size) != made.picture.size:
                    cut.append(f"{path}, {sized(*given)}, to {sized(*made.picture.size)}")
                records.append(_degrade(path, made, source, folder / name, bool(size)))
                if masked:
                    lost = lost_share(made.operator, made.operator.A(made.picture.values[None]))
                    shared.add({MASKED: f"{path}, {lost:.0%} of it"}, index)
        shared.say(len(files))
        if cut:
            how = f"made smaller than {sized(size, size)}" if size else "cut below and to the right"
            count = f"{len(cut)} of {counted(len(files), 'image')}"
            note(f"{how}, to sides that super-resolution divides: {count}; first: {cut[0]}")
        if records:
            about = {"noise_std": noise_std, "seed": seed, "size": size}
            write_json(folder / "degrade.json", report(torch.device("cpu"), about, records))
    return failures.finish(len(files))


def _check(physics: str, files: list[Path]) -> None:
    """Raise InputError for images without a file of their own, or what a measurement file would not hold."""
    from flashdiffusion.jobs.parse import check_files, read_physics
    from flashdiffusion.physics import BlurKernelSpace

    check_files(physics, files)
    names = [one.name for one in read_physics(physics)]
    if len(names) > 1 and BlurKernelSpace.name in names:
        raise InputError(
            f"physics {physics!r}: a measurement file of a composition does not hold the network of "
            f"{BlurKernelSpace.name}, so that it could not be restored; give {BlurKernelSpace.name} alone, or "
            "nonlinear-blur, which needs no network, instead"
        )


def _degrade(path: Path, made: "Made", source: str, out: Path, fitted: bool) -> "Record":
    """Write `out`.safetensors and `out`.png of one image."""
    from flashdiffusion.data import write_bytes
    from flashdiffusion.data.measurements import SUFFIX
    from flashdiffusion.record import Record

    file, shown = made.measured(out.name, source, fitted)
    file.save(out.with_name(f"{out.name}{SUFFIX}"))
    write_bytes(out.with_name(f"{out.name}.png"), shown.png)
    degradation = made.operator.describe()[0]
    about = ", ".join(f"{key}={value}" for key, value in degradation.items())
    print(f"{path}: {about}, noise_std={file.noise_std:g} -> {out}{SUFFIX}")
    return Record(out.name, degradation, measurement_psnr=shown.psnr)


def _note_earlier(folder: Path, files: Mapping[str, Path]) -> None:
    """Say what becomes of measurements that are there already."""
    from flashdiffusion.data.measurements import SUFFIX

    there = {path.stem for path in folder.glob(f"*{SUFFIX}")}
    if there:
        note(
            f"{folder} holds {len(there)} measurements of an earlier run; replaced: {len(there & files.keys())}; kept, "
            f"and restored with the others: {len(there - files.keys())}; degrade.json lists this run alone"
        )
