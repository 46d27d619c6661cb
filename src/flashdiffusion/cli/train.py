"""`flashdiffusion train`."""

from pathlib import Path
from typing import Annotated

import typer

from flashdiffusion.cli.options import Out


def command(
    stage: Annotated[
        str,
        typer.Argument(help="autoencoder, denoiser, severity, regressor, distilled-decoder; all: the first four."),
    ],
    data: Annotated[list[Path], typer.Option(help="Folder of images or .tar shard; repeat for more.")],
    out: Out,
    config: Annotated[str, typer.Option(help="Recipe: faces-128 (GPU), faces-128-cpu, tiny.")] = "faces-128",
    max_minutes: Annotated[float | None, typer.Option(help="Time box; default: the recipe's.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Bound on the steps of each stage.")] = None,
    lpips: Annotated[Path | None, typer.Option(help="LPIPS weights (safetensors) for the autoencoder.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use the first images only.")] = None,
    head: Annotated[str | None, typer.Option(help="Severity head: log-variance or paper.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Task that severity encoder and regressor learn from; default: mixture.")
    ] = None,
    noise_std: Annotated[
        str | None,
        typer.Option(
            help="Their noise on the [0, 1] scale, a number or a range; default: 0:0.2.", metavar="STD|LOW:HIGH"
        ),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Model folder whose severity encoder to start from, on the same autoencoder.")
    ] = None,
    space: Annotated[
        str, typer.Option(help="latent, or pixel: a denoiser of pixels, for DPS, and a regressor.")
    ] = "latent",
    precision: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; default: the recipe's, where the processor has it.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in --out.")] = False,
) -> None:
    """Train a model on your own images: autoencoder, denoiser, severity encoder and regressor, in this order.

    The distilled decoder, a cheap stand-in for the decoder, is trained by its name alone: `all` leaves it out.
    """
    from flashdiffusion.training.recipes import get_recipe
    from flashdiffusion.training.run import train, with_precision, with_severity, with_space

    recipe = with_precision(with_space(with_severity(get_recipe(config), head, task, noise_std), space), precision)
    train(stage, data, recipe, out, max_minutes, max_steps, lpips, limit, resume, init)
    whole = (out / "model_index.json").exists()
    print(f"{stage} trained in {out}" + (f"; use it with --model {out}" if whole else ""))
