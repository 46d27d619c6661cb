"""`flashdiffusion degrade`."""

from pathlib import Path
from typing import Annotated

import typer

from flashdiffusion.cli.inputs import Failures, expand, names_of, read_image
from flashdiffusion.cli.options import NoiseStd, Out, Seed


def command(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Pictures or folders of pictures.")],
    out: Out,
    physics: Annotated[
        str | None,
        typer.Option(help="Degradation, e.g. gaussian-blur:std=2 or random-inpainting:ratio=0.75."),
    ] = None,
    task: Annotated[str, typer.Option(help="Without --physics: draw its parameters from this task.")] = "gaussian-blur",
    noise_std: NoiseStd = 0.05,
    size: Annotated[int, typer.Option(help="Crop to a square and resize to this side; 0 keeps the size.")] = 128,
    seed: Seed = 0,
) -> None:
    """Degrade pictures: writes NAME.safetensors (exact measurement and operator) and NAME.png (to look at)."""
    from flashdiffusion.data import MeasurementFile, ensure_directory, save_picture
    from flashdiffusion.errors import FlashDiffusionError, InputError
    from flashdiffusion.physics import get_task, parse_physics
    from flashdiffusion.physics.tasks import picture_generator

    if size < 0:
        raise InputError(f"size is {size}; expected a side in pixels, or 0 to keep each picture's own")
    chosen = get_task(task)
    files = expand(inputs)
    folder = ensure_directory(out)
    failures = Failures()
    for path, name in zip(files, names_of(files), strict=True):
        try:
            x = read_image(path, size or None)
            shape = (x.shape[2], x.shape[3])
            generator = picture_generator(seed, name)
            operator = (
                parse_physics(physics, shape, generator, noise_std)
                if physics
                else chosen.draw(1, shape, generator, noise_std)
            )
            y = operator(x, generator)[0]
            MeasurementFile(name, y, operator.name, operator.params, operator.noise_std).save(
                folder / f"{name}.safetensors"
            )
            save_picture(y, folder / f"{name}.png")
            about = ", ".join(f"{key}={value}" for key, value in operator.describe()[0].items())
            print(f"{path}: {about}, noise_std={operator.noise_std:g} -> {folder / name}.safetensors")
        except FlashDiffusionError as error:
            failures.reasons.append((str(path), str(error)))
    raise typer.Exit(failures.finish(len(files)))
