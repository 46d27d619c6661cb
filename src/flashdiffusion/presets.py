"""Hyperparameters by task and method: tuned for a model, in its folder, and published for 256x256 images."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from inspect import formatannotation
from pathlib import Path
from typing import Any

from flashdiffusion.data import write_bytes
from flashdiffusion.errors import InputError, UntunedWarning, blamed_on, shown
from flashdiffusion.methods import Settings, all_settings, method_name, setting_called
from flashdiffusion.physics import PHYSICS, TASKS, Compose
from flashdiffusion.priors.arguments import is_kind
from flashdiffusion.priors.folder import parse_json
from flashdiffusion.solvers.registry import SOLVERS
from flashdiffusion.types import Physics

FILE = "presets.json"
_DEFAULT_TASK = "gaussian-blur"
_OWN_PRESETS = {"noise", "ccdf"}  # starts whose methods are tuned by themselves; all others take Flash's


@dataclass(frozen=True)
class Preset:
    """Tuned settings, beside what they reached: means over the validation images of the tuning run."""

    settings: Mapping[str, Any]
    psnr: float | None = None
    lpips: float | None = None
    nfe: float | None = None


# Task, method, and length of the time grid; None is the method's own. Flash's steps are few in any case.
Key = tuple[str, str, int | None]


@dataclass(frozen=True)
class Presets:
    """What a model's settings are, by task and method.

    table: the presets. tuned: whether they were found for this model.
    """

    table: Mapping[Key, Preset] = field(default_factory=dict)
    tuned: bool = True

    @classmethod
    def read(cls, folder: Path) -> "Presets":
        """Read those in a model's folder, none if it has no such file; raises CheckpointError for another content."""
        path = folder / FILE
        if not path.is_file():
            return cls()
        table, known = {}, all_settings()
        with blamed_on(f"{path} is no list of presets, as `tune --save` writes it"):
            for row in parse_json(path):
                key = row.pop("task"), row.pop("method"), row.pop("steps")
                one = Preset(**row | {"settings": dict(row["settings"])})
                kinds: list[tuple[Any, Any]] = [*zip(key, (str, str, int | None), strict=True)]
                kinds += [(figure, float | None) for figure in (one.psnr, one.lpips, one.nfe)]
                named = ((setting_called(name), value) for name, value in one.settings.items())
                kinds += [(value, known[name].type) for name, value in named if name in known]
                for value, kind in kinds:
                    if not is_kind(value, kind):
                        raise InputError(f"{shown(value)} stands where {formatannotation(kind)} is expected")
                table[key] = one
        return cls(table)

    def write(self, folder: Path) -> None:
        """Write them into a model's folder."""
        rows = [{"task": key[0], "method": key[1], "steps": key[2]} | asdict(one) for key, one in self.table.items()]
        text = ",\n".join("  " + json.dumps(row) for row in rows)
        write_bytes(folder / FILE, f"[\n{text}\n]\n".encode())

    def with_preset(self, key: Key, preset: Preset) -> "Presets":
        """Add one, or put it in place of what had its key."""
        own = self.table if self.tuned else {}
        return Presets({**own, key: preset})

    @classmethod
    def published(cls, images: str) -> "Presets":
        """Take those published for 256x256 images of FFHQ or LSUN."""
        return cls({(t, m, None): Preset(one) for (t, m, i), one in PUBLISHED.items() if i == images}, tuned=False)

    def warn(self) -> None:
        """Say that the model is untuned, if it is."""
        if not self.table or not self.tuned:
            taken = "published for 256x256 images" if self.table else "the solvers' defaults"
            warnings.warn(
                f"this model is untuned: its settings are {taken}; `flashdiffusion tune --save` finds its own",
                UntunedWarning,
                stacklevel=2,
            )


def preset_for(presets: Presets, task: str | Physics, start: str, solver: str, steps: int | None = None) -> Settings:
    """Choose a model's settings for a task (its name, or a physics), a start rule and a solver (their names).

    What has no preset of its own takes the nearest that has: the same method and task on the method's own time grid
    (`steps` is the length of another one), then that method on Gaussian blur, then Latent-DPS of the same start, then
    the solver after a Flash start. A composition takes those of the first of its parts that has some; what rounds, such
    as JPEG, goes before what does not. Without any it is the solver's defaults. A solver that says what a Flash start
    before it is to be takes no other method's.
    """
    start = start if start in _OWN_PRESETS else "flash"
    given = Settings() if steps is None else Settings(steps=steps)
    defaults = Settings()
    methods = [method_name(start, solver), method_name(start, "latent-dps"), method_name("flash", solver)]
    if solver in SOLVERS and SOLVERS[solver].start:
        methods = methods[:1]
        defaults = Settings(**SOLVERS[solver].start) if start == "flash" else defaults
    for method in methods:
        for known in (*_names(task), _DEFAULT_TASK):
            for length in (steps, None):
                if (known, method, length) in presets.table:
                    return defaults | presets.table[known, method, length].settings | given
    return defaults | given


def _names(task: str | Physics) -> list[str]:
    """Name a task, its parts and the operator that it draws; or a physics, or the parts of a composition."""
    if isinstance(task, str):
        return [task, *_cautious(task.split("+")), *([TASKS[task].physics] if task in TASKS else [])]
    if isinstance(task, Compose):
        return _cautious(_names(task.first) + _names(task.second))
    return [str(getattr(task, "name", _DEFAULT_TASK))]


def _cautious(parts: list[str]) -> list[str]:
    """Put what rounds first: fits by its stand-in of a derivative must stay short, whatever else was done."""
    return sorted(parts, key=lambda name: not (name in PHYSICS and PHYSICS[name].cls.rounds))


PUBLISHED_IMAGES = ("FFHQ", "LSUN")
_FIELDS: dict[str, tuple[str, ...]] = {
    "flash(latent-dps)": ("guidance", "correction"),
    "flash(gml-dps)": ("guidance", "omega", "correction"),
    "flash(psld)": ("guidance", "omega", "correction"),
    "flash(resample)": ("gamma", "correction"),
    "ccdf(latent-dps)": ("guidance", "start_step"),
    "ccdf(dps)": ("guidance", "start_step"),
    "dps": ("guidance",),
}
# In the order of the methods above; None where nothing is published.
_PUBLISHED: dict[tuple[str, str], tuple[tuple[float, ...] | None, ...]] = {
    ("gaussian-blur", "FFHQ"): ((1, 1.2), (3, 0.05, 1.2), (2, 0.2, 1.0), (400, 1.2), (1, 100), (5, 20), (5,)),
    ("gaussian-blur", "LSUN"): ((2, 1.2), (2, 0.05, 1.2), (2, 0.2, 1.0), (1000, 1.2)),
    ("gaussian-blur-fixed", "FFHQ"): ((3, 1.2), (2, 0.05, 1.0), (2, 0.1, 1.0), (2000, 1.2)),
    ("gaussian-blur-fixed", "LSUN"): ((2, 1.0), (2, 0.05, 1.0), (2, 0.1, 1.0), (200, 1.2)),
    ("nonlinear-blur", "FFHQ"): ((1, 1.0), (3, 0.05, 1.2), None, (200, 1.2), (1.5, 200), (3, 100), (0.5,)),
    ("nonlinear-blur", "LSUN"): ((2, 1.0), (2, 0.05, 1.0), None, (1000, 1.0)),
    ("random-inpainting", "FFHQ"): ((7, 1.2), (10, 0.05, 1.0), (10, 0.5, 1.0), (200, 1.2), (10, 100), (3, 50), (3,)),
    ("random-inpainting", "LSUN"): ((10, 1.2), (10, 0.05, 1.0), (10, 0.05, 1.2), (400, 1.2)),
}
# (task, method, images) -> settings published for 256x256; a start to search from with another prior.
PUBLISHED = {
    (task, method, images): Settings(**dict(zip(names, values, strict=True)))
    for (task, images), row in _PUBLISHED.items()
    for (method, names), values in zip(_FIELDS.items(), row, strict=False)
    if values is not None
}


def published_for(task: str, start: str, solver: str, images: str) -> Settings:
    """Give the settings published for a method on 256x256 images of FFHQ or LSUN; raises InputError if none are."""
    key = (task, method_name(start, solver), images)
    if key not in PUBLISHED:
        known = sorted(", ".join(key) for key in PUBLISHED if key[0] == task)
        raise InputError(f"nothing published for {', '.join(key)}; known for {task}: {'; '.join(known) or 'nothing'}")
    return PUBLISHED[key]
