"""`flashdiffusion train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from flashdiffusion.cli.command import option
from flashdiffusion.cli.options import Data, Limit, Lpips, Out, Resume


@dataclass(frozen=True)
class Bounds:
    """How long, and on how many images."""

    max_minutes: Annotated[float | None, option("Time box; default: the recipe's.")] = None
    max_steps: Annotated[int | None, option("Bound on the steps of each stage.")] = None
    limit: Limit = None
    lr: Annotated[float | None, option("Learning rate at its highest; default: the recipe's, of each stage.")] = None


@dataclass(frozen=True)
class SeverityOptions:
    """What the severity encoder is, and what it and the regressor learn from."""

    head: Annotated[str | None, option("Severity head: log-variance or paper.")] = None
    task: Annotated[
        str | None,
        option("Task that severity encoder and regressor learn from; default: the recipe's."),
    ] = None
    noise_std: Annotated[
        str | None,
        option(
            "Their noise on the [0, 1] scale, a number or a range; default: the recipe's.",
            metavar="STD|LOW:HIGH",
        ),
    ] = None
    model: Annotated[
        str | None,
        option("Folder or hub id of a model that has none, for severity and distilled-decoder; it is copied to --out."),
    ] = None
    init: Annotated[
        Path | None, option("Model whose denoiser or severity encoder to start from; of the same autoencoder.")
    ] = None


def command(
    stage: Annotated[
        str, typer.Argument(help="autoencoder, denoiser, severity, regressor, distilled-decoder; all: the first four.")
    ],
    data: Data,
    out: Out,
    bounds: Bounds,
    severity: SeverityOptions,
    config: Annotated[
        str, option("Recipe: faces-128 (GPU), faces-128-cpu, photos (GPU), photos-cpu, tiny, tiny-photos.")
    ] = "faces-128",
    lpips: Lpips = None,
    space: Annotated[str, option("latent, or pixel: a denoiser of pixels, for DPS, and a regressor.")] = "latent",
    precision: Annotated[
        str | None, option("float32 or bfloat16; default: the recipe's, where the processor has it.")
    ] = None,
    resume: Resume = False,
) -> None:
    """Train a model on your own images: autoencoder, denoiser, severity encoder and regressor, in this order.

    The distilled decoder, a cheap stand-in for the decoder, is trained by its name alone: `all` leaves it out.
    """
    from flashdiffusion.training.recipes import get_recipe
    from flashdiffusion.training.run import train, with_lr, with_precision, with_severity, with_space

    recipe = with_severity(get_recipe(config), severity.head, severity.task, severity.noise_std)
    recipe = with_lr(with_precision(with_space(recipe, space), precision), bounds.lr)
    limits = (bounds.max_minutes, bounds.max_steps, lpips, bounds.limit)
    train(stage, data, recipe, out, *limits, resume, severity.init, severity.model)
    whole = (out / "model_index.json").exists()
    print(f"{stage} trained in {out}" + (f"; use it with --model {out}" if whole else ""))
