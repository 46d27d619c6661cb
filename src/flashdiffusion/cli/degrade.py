"""`flashdiffusion degrade`."""

import sys
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashdiffusion.cli.inputs import Failures, expand, keep_inputs, names_of, note
from flashdiffusion.cli.options import NoiseStd, Out, Seed
from flashdiffusion.cli.references import relative_name

if TYPE_CHECKING:
    from torch import Generator

    from flashdiffusion.physics.base import BatchedPhysics


def command(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images or folders of images.")],
    out: Out,
    physics: Annotated[
        str | None,
        typer.Option(
            help="Degradation, e.g. gaussian-blur:std=2 or super-resolution:factor=4; A+B is one after the other."
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="Without --physics: draw its parameters from this task.")] = "gaussian-blur",
    noise_std: NoiseStd = 0.05,
    size: Annotated[int, typer.Option(help="Crop to a square and resize to this side; 0 keeps the size.")] = 128,
    seed: Seed = 0,
) -> None:
    """Degrade images: writes NAME.safetensors (the exact measurement), NAME.png (to look at) and degrade.json."""
    import torch

    from flashdiffusion.data import MeasurementFile, ensure_directory, save_image, write_json
    from flashdiffusion.data.images import LARGEST_AREA
    from flashdiffusion.data.measurements import SUFFIX
    from flashdiffusion.errors import FlashDiffusionError, InputError
    from flashdiffusion.jobs.measured import read_row_and_grey
    from flashdiffusion.jobs.parse import parse_physics
    from flashdiffusion.jobs.records import Record, report
    from flashdiffusion.metrics import psnr
    from flashdiffusion.physics import BlurKernelSpace, Compose, get_task
    from flashdiffusion.seeds import image_generator

    if size < 0 or size * size > LARGEST_AREA:
        raise InputError(
            f"size is {size}; expected a side of 1 to {isqrt(LARGEST_AREA)} pixels, or 0 to keep each image's own"
        )
    chosen = get_task(task)

    def make_physics(shape: tuple[int, int], generator: "Generator") -> "BatchedPhysics":
        if physics:
            return parse_physics(physics, shape, generator, noise_std)
        return chosen.draw(1, shape, generator, noise_std)

    probe = make_physics((1, 1), image_generator(seed, ""))  # options that no image can use fail here, once
    if isinstance(probe, Compose) and _needs_network(probe):
        raise InputError(
            f"physics {physics!r}: a measurement file of a composition does not hold the network of "
            f"{BlurKernelSpace.name}, so that it could not be restored; give {BlurKernelSpace.name} alone, or "
            "nonlinear-blur, which needs no network, in its place"
        )
    files = expand(inputs)
    names = names_of(files)
    keep_inputs(files, (out / f"{name}{suffix}" for name in names for suffix in (".png", SUFFIX)))
    folder = ensure_directory(out)
    failures = Failures()
    records = []
    for path, name in zip(files, names, strict=True):
        try:
            x, grey = read_row_and_grey(path, size or None, note)
            shape = (x.shape[2], x.shape[3])
            generator = image_generator(seed, name)
            operator = make_physics(shape, generator)
            y = operator(x, generator)
            std = float(operator.noise_std[0])
            source = relative_name(path, inputs).as_posix()
            file = MeasurementFile(name, y[0], operator.name, operator.params, std, source, bool(size), grey)
            file.save(folder / f"{name}{SUFFIX}")
            looked_at = operator.image(y).clamp(0, 1)
            save_image(looked_at[0], folder / f"{name}.png")
            degradation = operator.describe()[0]
            before = float(psnr(looked_at, x))
            records.append(Record(name, degradation, measurement_psnr=before))
            about = ", ".join(f"{key}={value}" for key, value in degradation.items())
            print(f"{path}: {about}, noise_std={std:g} -> {folder / name}{SUFFIX}")
        except FlashDiffusionError as error:
            failures.reasons.append((str(path), str(error)))
    if records:
        about_all = {"noise_std": noise_std, "seed": seed, "size": size}
        write_json(folder / "degrade.json", report(sys.argv[1:], torch.device("cpu"), about_all, records))
    raise typer.Exit(failures.finish(len(files)))


def _needs_network(physics: "BatchedPhysics") -> bool:
    """Whether an operator, or one that it is composed of, has a network beside its parameters."""
    from flashdiffusion.physics import BlurKernelSpace, Compose

    if isinstance(physics, Compose):
        return _needs_network(physics.first) or _needs_network(physics.second)
    return isinstance(physics, BlurKernelSpace)
