"""Options that several commands take, and the sets of them that commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from flashdiffusion.cli.command import RUN, SETTINGS

Model = Annotated[
    str | None,
    typer.Option(help="Model folder or hub id; default: the embedded faces-128.", show_default=False),
]
Device = Annotated[str | None, typer.Option(help="Torch device, e.g. cuda; default: cuda if there is one.")]
Precision = Annotated[
    str, typer.Option(help="Precision of the networks: float32, bfloat16 or float16.", rich_help_panel=RUN)
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
NoiseStd = Annotated[float, typer.Option(help="Noise standard deviation on the [0, 1] scale.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]
Out = Annotated[Path, typer.Option(help="Output folder.")]
Capacity = Annotated[
    int | None,
    typer.Option(
        help="Images in flight at a time; default: as many as fit into memory and bring speed.", rich_help_panel=RUN
    ),
]
EngineName = Annotated[
    str, typer.Option("--engine", help="local: this process. ray: workers, docs/scale.md.", rich_help_panel=RUN)
]
Workers = Annotated[
    int | None, typer.Option(help="With --engine ray; default: one per GPU, or per CPU without.", rich_help_panel=RUN)
]
Address = Annotated[
    str | None,
    typer.Option(
        help="With --engine ray: a running cluster, e.g. auto; default: this machine alone.", rich_help_panel=RUN
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue an earlier run: do what is missing in it or failed, nothing else.")
]
Eta = Annotated[
    float | None, typer.Option(help="Step size of the data consistency; default: tuned.", rich_help_panel=SETTINGS)
]
Correction = Annotated[
    float | None, typer.Option(help="Noise correction c of the start; default: tuned.", rich_help_panel=SETTINGS)
]
Steps = Annotated[
    int | None, typer.Option(help="Length of the time grid; default: 1000, DDPM.", rich_help_panel=SETTINGS)
]
Delta = Annotated[
    float | None,
    typer.Option(help="Stochasticity of a step in [0, 1]; 0 is DDIM, 1 is DDPM.", rich_help_panel=SETTINGS),
]
Omega = Annotated[
    float | None,
    typer.Option(help="Weight of the second term of GML-DPS and PSLD; default: tuned.", rich_help_panel=SETTINGS),
]
Gamma = Annotated[
    float | None, typer.Option(help="Resampling variance of ReSample; default: tuned.", rich_help_panel=SETTINGS)
]
Proximal = Annotated[
    float | None, typer.Option(help="Weight of ReSample's proximal term; default: tuned.", rich_help_panel=SETTINGS)
]
StartStep = Annotated[
    int | None, typer.Option(help="Steps N' of a fixed start (CCDF); default: tuned.", rich_help_panel=SETTINGS)
]
Mixing = Annotated[
    str | None, typer.Option(help="Noise mixing of a Flash start: paper or consistent.", rich_help_panel=SETTINGS)
]
GuideEvery = Annotated[
    int | None,
    typer.Option(
        help="Steps from one that takes the data's gradient to the next; default: every one does.",
        rich_help_panel=SETTINGS,
    ),
]
Jacobian = Annotated[
    bool | None,
    typer.Option(
        "--jacobian/--no-jacobian",
        help="Whether the gradient goes through the denoiser; default: it does.",
        rich_help_panel=SETTINGS,
    ),
]
Distilled = Annotated[
    str | None,
    typer.Option(
        help="The distilled decoder in the gradient: off, slope or all; default: off.", rich_help_panel=SETTINGS
    ),
]
Compile = Annotated[
    str | None,
    typer.Option(
        help="Compile the networks: default, or reduce-overhead for CUDA graphs. Not for CPUs.", rich_help_panel=RUN
    ),
]
Regressor = Annotated[
    str | None,
    typer.Option(
        help="Model whose regressor is used, for one that has none (a pixel-space model).", rich_help_panel=RUN
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting, e.g. eta=4; repeat for more.", metavar="NAME=VALUE"),
]


@dataclass(frozen=True)
class MethodSettings:
    """Settings of a method that were given."""

    set: Set = None
    eta: Eta = None
    correction: Correction = None
    steps: Steps = None
    omega: Omega = None
    gamma: Gamma = None
    proximal: Proximal = None
    start_step: StartStep = None
    mixing: Mixing = None
    delta: Delta = None
    guide_every: GuideEvery = None
    jacobian: Jacobian = None
    distilled: Distilled = None

    @property
    def given(self) -> dict[str, Any]:
        """By name; what `--set` gives too.

        Raises:
            InputError: no such setting, a value that is none of it, or one given twice.
        """
        from flashdiffusion.errors import InputError
        from flashdiffusion.experiments.tune import parse_grid

        own = {name: value for name, value in vars(self).items() if name != "set" and value is not None}
        for text in self.set or ():
            if len(text.split()) != 1:
                raise InputError(f"--set {text!r}; expected NAME=VALUE, e.g. eta=4")
            for name, values in parse_grid(text).items():
                if name in own or len(values) != 1:
                    times = "twice" if name in own else f"{len(values)} times"
                    raise InputError(f"--set {text}: {name} is given {times}; expected once")
                own[name] = values[0]
        return own


@dataclass(frozen=True)
class ModelOptions:
    """The model, and how it runs."""

    model: Model = None
    device: Device = None
    precision: Precision = "float32"
    regressor: Regressor = None


@dataclass(frozen=True)
class RunOptions:
    """Where many images are made, and how a run is continued."""

    seed: Seed = 0
    resume: Resume = False
    max_in_flight: Capacity = None
    engine: EngineName = "local"
    workers: Workers = None
    address: Address = None
    compile: Compile = None
