"""The options of all commands, each written once, in the sets that commands share."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashdiffusion.cli.command import option
from flashdiffusion.errors import InputError, check_name

if TYPE_CHECKING:
    from flashdiffusion.jobs import ModelChoice
    from flashdiffusion.priors import Conditions

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
        "Folder for a picture of each image's severity map: the estimate's standard deviation at each place, from 0.02 "
        "(blue) to 1 latent unit (yellow), logarithmic."
    ),
]
Tile = Annotated[
    int | None,
    option(
        "Take pictures with a side of more pixels in tiles of this side, each by its own severity; 0: never. "
        "Default: only with a model without attention, and only large pictures.",
        panel=RUN,
        show_default=False,
    ),
]
Seed = Annotated[int, option("Seed of everything random.")]
AUTO = "auto"  # as `jobs.parse` reads it


def _added_noise(value: str | float) -> float:
    """σ_y of noise that is added; refuses what is no number."""
    try:
        return float(value)
    except ValueError as error:
        why = f": noise is added here; {AUTO}, of restore and severity, estimates what is in an image"
        given = str(value).strip().lower()
        raise typer.BadParameter(f"{value!r}; expected a number from 0 to 1{why if given == AUTO else ''}") from error


NoiseStd = Annotated[
    float, option("Noise standard deviation on the [0, 1] scale.", parser=_added_noise, metavar="FLOAT")
]
NoiseStdOrAuto = Annotated[
    str | None,
    option(
        "Noise standard deviation of images on the [0, 1] scale, or auto: estimated from each; default: 0.05.",
        metavar=f"FLOAT|{AUTO}",
        show_default=False,
    ),
]
Json = Annotated[bool, option("Print JSON instead of a table.", "--json")]
Fit = Annotated[
    bool, option("Crop and resize images to the model's size; --physics is in pixels of the result.", "--fit")
]
Limit = Annotated[int | None, option("Use the first images only; default: all.")]
Data = Annotated[
    list[Path],
    option(
        "Folder of images, .tar shard or .txt list; repeat for more. celebahq:PATH, ffhq:PATH, lsun-bedroom:PATH: the "
        "images of a published split, wherever they lie below PATH.",
        metavar="[NAME:]PATH",
    ),
]
Split = Annotated[
    str | None, option("Of data with a NAME: test, val, or train (all others); default: test.", show_default=False)
]
Blind = Annotated[bool, option("Tell the severity encoder nothing of noise and degradation.", "--blind")]
Told = Annotated[
    str | None,
    option("Degradation that the severity encoder takes every image for, whatever it is, to see what that costs."),
]
Resume = Annotated[bool, option("Continue an earlier run: do only what is missing in it, or failed.", "--resume")]
Physics = Annotated[
    str | None,
    option(
        "What damaged the images: gaussian-blur:std=2, random-inpainting:mask=FILE (white: kept), ...; "
        "A+B is one after the other. All names and parameters: docs/degradations.md."
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


_MODEL = "faces-128 or photos, which are embedded; or a model's folder, or its hub id."


@dataclass(frozen=True)
class ModelOptions:
    """The model, and how it runs."""

    model: Annotated[
        str | None,
        option(f"{_MODEL} Default: faces-128.", metavar="NAME|FOLDER", show_default=False),
    ] = None
    device: Annotated[str | None, option("Torch device, e.g. cuda; default: cuda if there is one.")] = None
    precision: Annotated[str, option("Precision of the networks: float32, bfloat16 or float16.", panel=RUN)] = "float32"
    prompt: Annotated[
        str | None, option("What the images show, for a model that is given text, such as Stable Diffusion.", panel=RUN)
    ] = None
    negative_prompt: Annotated[str | None, option("What they do not show; with --guidance-scale.", panel=RUN)] = None
    guidance_scale: Annotated[
        float | None,
        option("How strongly the prompt or class guides; 1, the default, is off and costs half.", panel=RUN),
    ] = None
    class_label: Annotated[
        int | None, option("Number of the class that the images show, for a model of classes (DiT).", panel=RUN)
    ] = None

    @property
    def conditions(self) -> "Conditions | None":
        """What a conditional model is told, None if nothing is given; raises InputError for what it cannot be."""
        from flashdiffusion.priors import Conditions

        names = ("prompt", "negative_prompt", "guidance_scale", "class_label")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return Conditions(**given) if given else None

    def choice(
        self, regressor: str | None = None, compile: str | None = None, told: str | None = None
    ) -> "ModelChoice":
        """What opens the model."""
        from flashdiffusion.jobs import ModelChoice

        return ModelChoice(self.model, self.device, self.precision, regressor, compile, told, self.conditions)

    @property
    def name(self) -> str:
        """What the user knows the model by."""
        from flashdiffusion.model import embedded_name

        return embedded_name(self.model) or str(self.model)

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
        from flashdiffusion.model import DEFAULT_MODEL, EMBEDDED_PREFIX, embedded_name

        known = embedded_name(self.model)
        own = "embedded" if known == DEFAULT_MODEL else self.model if known is None else EMBEDDED_PREFIX + known
        told = {} if self.conditions is None else {"conditions": self.conditions.given}
        return {"model": own, "precision": self.precision, "regressor": regressor} | told


@dataclass(frozen=True)
class PictureModelOptions(ModelOptions):
    """The model of pictures that may be of any size."""

    model: Annotated[
        str | None,
        option(f"{_MODEL} Default: photos; with --fit faces-128.", metavar="NAME|FOLDER", show_default=False),
    ] = None

    def chosen(self, fit: bool) -> "PictureModelOptions":
        """The same, with the embedded model of photographs if none is given.

        Args:
            fit: whether images are brought to a model's own size, which that one has not.
        """
        from flashdiffusion.model import EMBEDDED_PREFIX, PHOTOGRAPHS

        return replace(self, model=EMBEDDED_PREFIX + PHOTOGRAPHS) if self.model is None and not fit else self


@dataclass(frozen=True)
class DataOptions:
    """Images, and which of them."""

    data: Data
    split: Split = None

    def about(self) -> dict[str, Any]:
        """What results depend on, for their file; with a split only if the data has some."""
        from flashdiffusion.data.named import by_name

        named = any(by_name(path) for path in self.data)
        return {"data": [str(path) for path in self.data]} | ({"split": self.split or "test"} if named else {})


@dataclass(frozen=True)
class TaskOptions(DataOptions):
    """Images, and how they are degraded."""

    task: TaskName = "gaussian-blur"
    noise_std: NoiseStd = 0.05

    def about(self) -> dict[str, Any]:
        """What results depend on, for their file."""
        return super().about() | {"task": self.task, "noise_std": self.noise_std}


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
    engine: Annotated[str, option("local: this process. ray: workers, docs/ray.md.", panel=RUN)] = "local"
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

    @property
    def here(self) -> bool:
        """Whether all is done on this machine, so that workers see its folders."""
        from flashdiffusion.jobs.ray import HERE, address_of

        return self.engine == "local" or address_of(self.address) == HERE


@dataclass(frozen=True)
class _SettingOptions:
    """Settings of methods that were given; a subclass has an option for each."""

    set: Annotated[
        list[str] | None,
        option("Any of its settings, e.g. guidance=4; repeat for more.", "--set", metavar="NAME=VALUE"),
    ] = None
    regressor: Annotated[str | None, option("Take the regressor of this model, for one that has none.", panel=RUN)] = (
        None
    )

    @property
    def shared(self) -> dict[str, Any]:
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


@dataclass(frozen=True)
class _MethodOptions(_SettingOptions):
    """A method, and those of its settings that were given."""

    method: Annotated[
        str | None,
        option(
            '"flash(proximal)", "flash(latent-dps)", psld, ae, ...; docs/results.md compares them. Its own settings '
            'may follow: "psld:steps=200,guidance=4". Default: flash(proximal), or flash(latent-dps) if a setting is '
            "given that proximal does not use, such as guidance.",
            show_default=False,
        ),
    ] = None

    @property
    def name(self) -> str:
        """The method by its full name: that given, or the one chosen by the settings given."""
        from flashdiffusion.jobs.measuring import BOUND
        from flashdiffusion.methods import method_name, parse_method

        return self._wanted if self._wanted == BOUND else method_name(*parse_method(self._wanted))

    @property
    def by_default(self) -> bool:
        """Whether neither a method nor a setting was given."""
        return self.method is None and not self.given

    @property
    def label(self) -> str:
        """The method and the settings that were given with its name, as it can be given again."""
        from flashdiffusion.methods import split_method

        own = split_method(self.method or "")[1]
        shown = {name: str(value).lower() if isinstance(value, bool) else value for name, value in own.items()}
        return self.name + (":" + ",".join(f"{name}={value}" for name, value in shown.items()) if own else "")

    @property
    def _wanted(self) -> str:
        from flashdiffusion.methods import named_method

        return named_method(self.method, self.given)

    @property
    def given(self) -> dict[str, Any]:
        """Settings by name, those given with the method over the others; raises InputError as `shared` does."""
        from flashdiffusion.methods import split_method

        return self.shared | split_method(self.method or "")[1]

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


@dataclass(frozen=True)
class _MethodsOptions(_SettingOptions):
    """Methods, and those of their settings that were given."""

    method: Annotated[
        list[str] | None,
        option(
            'A method, as "flash(proximal)" or "psld:steps=200,guidance=4"; repeat for more. Settings given as options '
            "are for all that use them. Default: flash(proximal).",
            show_default=False,
        ),
    ] = None

    def each(self) -> "list[MethodOptions]":
        """Each method with its settings.

        Raises:
            InputError: a method given twice, or a setting that none uses.
        """
        from flashdiffusion.jobs.measuring import BOUND
        from flashdiffusion.methods import parse_method, settings_of

        if len(self.method or ()) < 2:
            return [MethodOptions(**vars(self) | {"method": text}) for text in self.method or (None,)]
        found, unused = [], {*self.shared}
        for text in self.method or ():
            one = MethodOptions(**vars(self) | {"method": text})
            used = set() if one.name == BOUND else settings_of(*parse_method(one.name)).keys()
            unused -= used
            rest = {name: None for name in self.shared if name not in used}
            kept = [item for item in self.set or () if setting_of(item) in used]
            found.append(replace(one, **{name: None for name in rest if hasattr(one, name)}, set=kept))
        if unused:
            raise InputError(f"{', '.join(map(option_of, sorted(unused)))}: used by none of the methods given")
        labels = [one.label for one in found]
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise InputError(f"method {', '.join(sorted(twice))} is given twice; expected each once")
        return found


def setting_of(text: str) -> str:
    """The setting that an item of `--set` is about."""
    from flashdiffusion.methods import setting_called

    return setting_called(text.partition("=")[0])


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
    MethodsOptions = _MethodsOptions
else:
    _SETTINGS = [
        (
            name,
            Annotated[kind | None, option(text, *([f"--{name}", f"--{alias}"] if alias else ()), panel=SETTINGS)],
            None,
        )
        for name, kind, text, alias in sorted({one[0]: one for one in declared_settings()}.values())
    ]
    MethodOptions, MethodsOptions = (
        make_dataclass(base.__name__.lstrip("_"), _SETTINGS, bases=(base,), frozen=True)
        for base in (_MethodOptions, _MethodsOptions)
    )
