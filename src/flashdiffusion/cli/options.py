"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(help="Model folder or hub id; default: the embedded faces-128.", show_default=False),
]
Device = Annotated[str | None, typer.Option(help="Torch device, e.g. cuda; default: cuda if there is one.")]
Precision = Annotated[str, typer.Option(help="Precision of the networks: float32, bfloat16 or float16.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
NoiseStd = Annotated[float, typer.Option(help="Noise standard deviation on the [0, 1] scale.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]
Out = Annotated[Path, typer.Option(help="Output folder.")]
Capacity = Annotated[
    int | None,
    typer.Option(help="Images in flight at a time; default: as many as fit into memory and bring speed."),
]
EngineName = Annotated[str, typer.Option("--engine", help="local: this process. ray: workers, docs/scale.md.")]
Workers = Annotated[int | None, typer.Option(help="With --engine ray; default: one per GPU, or per CPU without.")]
Address = Annotated[
    str | None, typer.Option(help="With --engine ray: a running cluster, e.g. auto; default: this machine alone.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue an earlier run: do what is missing in it or failed, nothing else.")
]
Eta = Annotated[float | None, typer.Option(help="Step size of the data consistency; default: tuned.")]
Correction = Annotated[float | None, typer.Option(help="Noise correction c of the start; default: tuned.")]
Steps = Annotated[int | None, typer.Option(help="Length of the time grid; default: 1000, DDPM.")]
Delta = Annotated[float | None, typer.Option(help="Stochasticity of a step in [0, 1]; 0 is DDIM, 1 is DDPM.")]
Omega = Annotated[float | None, typer.Option(help="Weight of the second term of GML-DPS and PSLD; default: tuned.")]
Gamma = Annotated[float | None, typer.Option(help="Resampling variance of ReSample; default: tuned.")]
Proximal = Annotated[float | None, typer.Option(help="Weight of ReSample's proximal term; default: tuned.")]
StartStep = Annotated[int | None, typer.Option(help="Steps N' of a fixed start (CCDF); default: tuned.")]
Mixing = Annotated[str | None, typer.Option(help="Noise mixing of a Flash start: paper or consistent.")]
GuideEvery = Annotated[
    int | None, typer.Option(help="Steps from one that takes the data's gradient to the next; default: every one does.")
]
Jacobian = Annotated[
    bool | None,
    typer.Option("--jacobian/--no-jacobian", help="Whether the gradient goes through the denoiser; default: it does."),
]
Distilled = Annotated[
    str | None, typer.Option(help="The distilled decoder in the gradient: off, slope or all; default: off.")
]
Compile = Annotated[
    str | None, typer.Option(help="Compile the networks: default, or reduce-overhead for CUDA graphs. Not for CPUs.")
]
Regressor = Annotated[
    str | None, typer.Option(help="Model whose regressor is used, for one that has none (a pixel-space model).")
]
