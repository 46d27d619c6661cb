"""The options of all commands, each written once, in the sets that commands share."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashdiffusion.cli.command import option
from flashdiffusion.errors import InputError, check_name

if TYPE_CHECKING:
    from flashdiffusion.jobs import ModelChoice

SETTINGS = "Settings of the method; default: the model's own (presets.json)"
RUN = "The run"

Out = Annotated[Path, option("Output folder.")]
OutFile = Annotated[Path, option("Results file (JSON).")]
Inputs = Annotated[
    list[Path],
    typer.Argument(metavar="INPUT...", help="Measurement files, images, arrays (.npy, .npz, .pt, .mat), or folders."),
]
Maps = Annotated[
    Path | None,
    option(
        "Folder for a picture of each image's severity map: the estimate's standard deviation at each place, from 0 "
        "(blue) to 1 latent unit or more (yellow: nothing is known)."
    ),
]
Seed = Annotated[int, option("Seed of everything random.")]
NoiseStd = Annotated[float, option("Noise standard deviation on the [0, 1] scale.")]
Json = Annotated[bool, option("Print JSON instead of a table.", "--json")]
Fit = Annotated[bool, option("Crop and resize images to the model's size.", "--fit")]
Limit = Annotated[int | None, option("Use the first images only; default: all.")]
Data = Annotated[list[Path], option("Folder of images or .tar shard; repeat for more.")]
Blind = Annotated[bool, option("Tell the severity encoder nothing of noise and degradation.", "--blind")]
Resume = Annotated[bool, option("Continue an earlier run: do only what is missing in it, or failed.", "--resume")]
Physics = Annotated[
    str | None,
    option(
        "What damaged the images: gaussian-blur:std=2, random-inpainting:mask=FILE (white: kept), ...; "
        "A+B is one after the other."
    ),
]
MaxInFlight = Annotated[
    int | None, option("Images in flight at a time; default: as many as fit into memory and bring speed.", panel=RUN)
]
Lpips = Annotated[
    str | None,
    option(
        "LPIPS: a file of its weights, or alex, squeeze or vgg, whose weights are downloaded once; default: none.",
        metavar="FILE|NET",
    ),
]


TaskName = Annotated[str, option("Task, e.g. gaussian-blur or random-inpainting.")]


@dataclass(frozen=True)
class ModelOptions:
    """The model, and how it runs."""

    model: Annotated[
        str | None, option("Model folder or hub id; default: the embedded faces-128.", show_default=False)
    ] = None
    device: Annotated[str | None, option("Torch device, e.g. cuda; default: cuda if there is one.")] = None
    precision: Annotated[str, option("Precision of the networks: float32, bfloat16 or float16.", panel=RUN)] = "float32"

    def choice(self, regressor: str | None = None, compile: str | None = None) -> "ModelChoice":
        """What opens the model."""
        from flashdiffusion.jobs import ModelChoice

        return ModelChoice(self.model, self.device, self.precision, regressor, compile)

    def folder_to_save(self) -> Path:
        """The folder that --save writes into; raises InputError if the model is in none."""
        if self.model is None or not Path(self.model).is_dir():
            given = self.model or "not given"
            raise InputError(
                f"--save writes into a model's folder; --model is {given}, expected a folder (the embedded model is "
                "read-only: FlashPipeline.from_pretrained().save_pretrained(FOLDER) makes a copy)"
            )
        return Path(self.model)

    def about(self, regressor: str | None = None) -> dict[str, Any]:
        """What results depend on, for their file."""
        return {"model": self.model or "embedded", "precision": self.precision, "regressor": regressor}


@dataclass(frozen=True)
class TaskOptions:
    """Images, and how they are degraded."""

    data: Data
    task: TaskName = "gaussian-blur"
    noise_std: NoiseStd = 0.05

    def about(self) -> dict[str, Any]:
        """What results depend on, for their file."""
        return {"data": [str(path) for path in self.data], "task": self.task, "noise_std": self.noise_std}


@dataclass(frozen=True)
class QualityOptions:
    """Metrics that need weights."""

    lpips: Lpips = None

    @property
    def weights(self) -> dict[str, str]:
        """Weights files by metric."""
        return {"lpips": self.lpips} if self.lpips else {}

    def about(self) -> dict[str, Any]:
        """What results depend on, for their file; raises InputError for weights that are none."""
        from flashdiffusion.metrics import Metrics

        return {"lpips_net": None, **Metrics(self.weights).nets}


@dataclass(frozen=True)
class RunOptions:
    """Where many images are made, and how a run is continued; raises InputError for what no engine takes."""

    resume: Resume = False
    max_in_flight: MaxInFlight = None
    engine: Annotated[str, option("local: this process. ray: workers, docs/scale.md.", panel=RUN)] = "local"
    workers: Annotated[
        int | None, option("With --engine ray; default: one per GPU, or per CPU without.", panel=RUN)
    ] = None
    address: Annotated[
        str | None, option("With --engine ray: a running cluster, e.g. auto; default: this machine.", panel=RUN)
    ] = None
    compile: Annotated[
        str | None,
        option("Compile the networks: default, or reduce-overhead for CUDA graphs. Not for CPUs.", panel=RUN),
    ] = None

    def __post_init__(self) -> None:
        check_name("engine", self.engine, ("local", "ray"))
        given = {"--workers": self.workers, "--address": self.address}
        if self.engine == "local" and (unused := [option for option, value in given.items() if value is not None]):
            raise InputError(f"{', '.join(unused)}: for --engine ray; the local engine is this process alone")


@dataclass(frozen=True)
class _MethodOptions:
    """A method, and those of its settings that were given; a subclass has an option for each."""

    method: Annotated[
        str | None,
        option(
            '"flash(proximal)", "flash(latent-dps)", psld, ae, ...; docs/results.md compares them. Default: '
            "flash(proximal), or flash(latent-dps) if a setting is given that proximal does not use, such as guidance.",
            show_default=False,
        ),
    ] = None
    set: Annotated[
        list[str] | None,
        option("Any of its settings, e.g. guidance=4; repeat for more.", "--set", metavar="NAME=VALUE"),
    ] = None
    regressor: Annotated[str | None, option("Take the regressor of this model, for one that has none.", panel=RUN)] = (
        None
    )

    @property
    def name(self) -> str:
        """The method by its full name: that given, or the one chosen by the settings given."""
        from flashdiffusion.jobs.measuring import BOUND
        from flashdiffusion.methods import method_name, parse_method

        return self._wanted if self._wanted == BOUND else method_name(*parse_method(self._wanted))

    @property
    def _wanted(self) -> str:
        from flashdiffusion.methods import default_solver, method_name

        return self.method or method_name("flash", default_solver("flash", self.given))

    @property
    def given(self) -> dict[str, Any]:
        """Settings by name, `--set` among them; raises InputError for no setting, a wrong value, or one given twice."""
        from flashdiffusion.methods import all_settings, parse_settings

        own = {name: value for name in all_settings() if (value := getattr(self, name, None)) is not None}
        for text in self.set or ():
            if len(text.split()) != 1:
                raise InputError(f"--set {text!r}; expected NAME=VALUE, e.g. guidance=4")
            for name, values in parse_settings(text).items():
                if name in own or len(values) != 1:
                    times = "twice" if name in own else f"{len(values)} times"
                    raise InputError(f"--set {text}: {name} is given {times}; expected once")
                own[name] = values[0]
        return own

    def parts(self, bound: bool = False) -> tuple[str, str]:
        """Start and solver; with `bound` the method may be the bound, which needs the true image.

        Raises:
            InputError: unknown method, or settings given that it does not use.
        """
        from flashdiffusion.jobs.measuring import BOUND
        from flashdiffusion.methods import check_used, parse_method

        if self._wanted != BOUND:
            start, solver = parse_method(self._wanted, [BOUND] if bound else [])
        elif bound:
            start, solver = "estimate", "prior"
        else:
            raise InputError(
                f"method {BOUND} restores nothing: it is the autoencoder alone on the true image, for `evaluate` only; "
                "choose another, e.g. flash(proximal)"
            )
        check_used(self.given, start, solver, BOUND if self.name == BOUND else None, option_of)
        return start, solver


def option_of(setting: str) -> str:
    """The option that gives a setting."""
    return f"--{setting.replace('_', '-')}"


def declared_settings() -> Iterator[tuple[str, type, str, str]]:
    """Name, type, help and alias (or "") of every setting that the library's solvers and start rules declare.

    Their source is read, since importing it would import torch, which takes seconds.
    """
    types = {kind.__name__: kind for kind in (int, float, str, bool)}
    root = Path(__file__).parents[1]
    for file in (*(root / "solvers").glob("*.py"), root / "methods.py"):
        for one in (node for cls in ast.parse(file.read_text()).body for node in getattr(cls, "body", ())):
            match one:
                case ast.AnnAssign(
                    target=ast.Name(name),
                    annotation=kind,
                    value=ast.Call(func=ast.Name("setting"), args=[_, ast.Constant(text), *_], keywords=more),
                ):
                    alias = next((ast.literal_eval(one.value) for one in more if one.arg == "alias"), "")
                    yield name, types[ast.unparse(kind).removesuffix(" | None")], str(text), alias


if TYPE_CHECKING:
    MethodOptions = _MethodOptions
else:
    MethodOptions = make_dataclass(
        "MethodOptions",
        [
            (
                name,
                Annotated[kind | None, option(text, *([f"--{name}", f"--{alias}"] if alias else ()), panel=SETTINGS)],
                None,
            )
            for name, kind, text, alias in sorted({one[0]: one for one in declared_settings()}.values())
        ],
        bases=(_MethodOptions,),
        frozen=True,
    )
