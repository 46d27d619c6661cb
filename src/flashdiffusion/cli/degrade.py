"""`flashdiffusion degrade`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    from torch import Generator

    from flashdiffusion.data import Picture
    from flashdiffusion.jobs.records import Record
    from flashdiffusion.physics.base import BatchedPhysics

    # Of an image: its file, its size now and before it was fitted.
    MakePhysics = Callable[[Path, tuple[int, int], tuple[int, int], Generator], BatchedPhysics]


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
    make_physics = _physics(physics, task, noise_std)
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
                made = _made(path, picture, size, make_physics, draw, like if physics else None)
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


def _physics(text: str | None, task: str, noise_std: float) -> "MakePhysics":
    """What makes an image's operator: as `text` says, or drawn from the task."""
    from flashdiffusion.jobs.parse import parse_physics
    from flashdiffusion.physics import get_task

    chosen = get_task(task)
    if text:
        return lambda path, size, original, rng: parse_physics(text, size, rng, noise_std, path, original)
    return lambda path, size, original, rng: chosen.draw(1, size, rng, noise_std)


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


@dataclass(frozen=True)
class _Made:
    """An image as it is degraded, with its operator, and the generator of its noise."""

    picture: "Picture"
    operator: "BatchedPhysics"
    generator: "Generator"


def _made(
    path: Path,
    picture: "Picture",
    size: int,
    make_physics: "MakePhysics",
    draw: "Callable[[], Generator]",
    like: "BatchedPhysics | None",
) -> _Made:
    """Bring an image to the size that it is degraded at, and make its operator.

    Super-resolution divides no image whose sides are no multiples of its factor: that is cut, or where a size was asked
    for, brought to a smaller one, which the true image can be brought to as well.

    Args:
        like: an operator of another image, whose pixels of y are as large; None where that is drawn for each.
    """
    from flashdiffusion.physics import Window

    asked, made = (size, size) if size else picture.size, None
    if like is None:
        like = made = make_physics(path, asked, picture.size, generator := draw())
    part = Window.divided(asked, like.pixel_size)
    fitted = picture.fitted(*part.size) if size else picture.cropped(*part.size)
    cut = part.size != asked and not size and like.halo is not None  # a mask is of the whole image
    own = asked if cut else part.size
    if made is None or own != asked:
        made = make_physics(path, own, picture.size if size else own, generator := draw())
    if cut:
        made.check_size(asked)
        made = made.window(part)
    return _Made(fitted, made, generator)


def _degrade(path: Path, made: _Made, source: str, out: Path, fitted: bool) -> "Record":
    """Write `out`.safetensors and `out`.png of one image."""
    from flashdiffusion.data import MeasurementFile, encode_picture, write_bytes
    from flashdiffusion.data.measurements import SUFFIX
    from flashdiffusion.jobs.records import Record
    from flashdiffusion.metrics import psnr

    operator, x, kind = made.operator, made.picture.values[None], made.picture.kind
    y = operator(x, made.generator)
    std = float(operator.noise_std[0])
    file = MeasurementFile(out.name, y[0], operator.name, operator.params, std, source, fitted, kind)
    file.save(out.with_name(f"{out.name}{SUFFIX}"))
    looked_at = operator.image(y).clamp(0, 1)
    # The mean of a grey image's channels would show less noise than was added to it.
    shown = looked_at[0, :1] if kind.grey else looked_at[0]
    write_bytes(out.with_name(f"{out.name}.png"), encode_picture(shown, kind))
    degradation = operator.describe()[0]
    about = ", ".join(f"{key}={value}" for key, value in degradation.items())
    print(f"{path}: {about}, noise_std={std:g} -> {out}{SUFFIX}")
    return Record(out.name, degradation, measurement_psnr=float(psnr(looked_at, x)))


def _note_earlier(folder: Path, files: Mapping[str, Path]) -> None:
    """Say what becomes of measurements that are there already."""
    from flashdiffusion.data.measurements import SUFFIX

    there = {path.stem for path in folder.glob(f"*{SUFFIX}")}
    if there:
        note(
            f"{folder} holds {len(there)} measurements of an earlier run; replaced: {len(there & files.keys())}; kept, "
            f"and restored with the others: {len(there - files.keys())}; degrade.json lists this run alone"
        )
