"""What a click asks for, and the command line that gives the same."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from flashdiffusion.app.damages import DAMAGES, FACES, MASK, PHOTOGRAPHS, Damage
from flashdiffusion.errors import InputError, check_name

DEFAULT = "flash(proximal)"
QUALITIES = ("fast", "balanced", "best")
# Methods that the page offers, by model; the command line has more.
METHODS: dict[str, dict[str, str]] = {
    FACES: {
        DEFAULT: "Flash (proximal), the default",
        "flash(latent-dps)": "Flash (Latent-DPS), the paper's",
        "flash(gml-dps)": "Flash (GML-DPS)",
        "flash(resample)": "Flash (ReSample)",
        "proximal": "Proximal, from noise",
        "ae": "No steps: the severity encoder's estimate",
        "swinir": "No diffusion: SwinIR",
    },
    PHOTOGRAPHS: {
        DEFAULT: "Flash (proximal), the default",
        "proximal": "Proximal, from noise",
        "denoise": "One look of the denoiser (noise alone)",
        "ae": "No steps: the severity encoder's estimate",
    },
}
PICTURE, MEASURED = "picture", "measured"  # stem of the picture's file, and so its id; folder of its measurement


@dataclass(frozen=True)
class Choice:
    """What a click asks for.

    strengths: as the damage has. damaged: whether the picture came damaged, and is not to be damaged first. noise_std:
    σ_y, None to estimate it. methods: one, or two to compare.

    Raises:
        InputError: a name that there is not, a number out of range, or two methods that are one.
    """

    model: str = FACES
    damage: str = "blur"
    strengths: tuple[float, ...] = (2.0,)
    damaged: bool = False
    noise_std: float | None = 0.02
    methods: tuple[str, ...] = (DEFAULT,)
    quality: str = "balanced"
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_name("model", self.model, METHODS)
        check_name("damage", self.damage, DAMAGES)
        check_name("quality", self.quality, QUALITIES)
        for method in self.methods:
            check_name(f"method of {self.model}", method, METHODS[self.model])
        if len(set(self.methods)) != len(self.methods):
            raise InputError(f"{self.methods[0]} is compared with itself; choose two methods that differ")
        if self.model not in self.kind.models:
            raise InputError(f"{self.model} does not know {self.kind.label!r}; choose the other model")
        if self.damaged and self.kind.drawn:
            raise InputError(f"{self.kind.label!r} was drawn at random, so that nobody can tell what it was")
        if self.noise_std is None and not self.damaged:
            raise InputError("noise is to be estimated of a picture that is damaged here; expected a number")
        if self.noise_std is not None and not 0 <= self.noise_std <= 1:
            raise InputError(f"noise is {self.noise_std}; expected a standard deviation from 0 to 1")
        if self.samples < 1:
            raise InputError(f"{self.samples} samples; expected at least 1")
        if len(self.strengths) != len(self.kind.strengths):
            raise InputError(f"{len(self.strengths)} strengths for {self.kind.label!r}; it has {self.kind.strengths}")
        if self.noise_std is not None:  # as the commands write it, so that they give the same pixels
            object.__setattr__(self, "noise_std", float(f"{self.noise_std:g}"))
        for value, one in zip(self.strengths, self.kind.strengths, strict=True):
            if not (math.isfinite(value) and one.low <= value <= one.high):
                raise InputError(f"{one.label} is {value:g}; expected {one.low:g} to {one.high:g}")

    @property
    def kind(self) -> Damage:
        """What is wrong with the picture."""
        return DAMAGES[self.damage]

    @property
    def fit(self) -> bool:
        """Whether the picture is cropped and resized to the model's size."""
        return self.model == FACES

    def physics(self, folder: PurePath | None = None) -> str:
        """What damaged it, as `--physics` takes it; a mask lies in `folder`, by default where one is."""
        text = self.kind.physics(self.strengths)
        return text if folder is None else text.replace(f"={MASK}", f"={folder / MASK}")

    def given(self, method: str) -> dict[str, Any]:
        """Settings in place of the model's own."""
        return {"quality": self.quality} if self.quality != "balanced" and "proximal" in method else {}

    def commands(self, picture: str) -> list[list[str]]:
        """Command lines that make what the page shows of a picture's file, each in its words.

        They run in a folder that holds the picture, and the mask if one was drawn.
        """
        noise = "auto" if self.noise_std is None else f"{self.noise_std:g}"
        damage = ["--physics", self.physics(), "--noise-std", noise]
        fit = ["--fit"] if self.fit else []
        seed = ["--seed", str(self.seed)]
        first: list[list[str]] = []
        source, told = picture, [*damage, *fit]
        if not self.damaged:
            first = [["flashdiffusion", "degrade", picture, "--out", MEASURED, *damage, *fit, *seed]]
            source, told = f"{MEASURED}/{PICTURE}.safetensors", ["--reference", picture]
        for n, method in enumerate(self.methods):
            settings = [f"--{name}={value}" for name, value in self.given(method).items()]
            model = ["--model", self.model, "--method", method, *settings]
            first.append(["flashdiffusion", "restore", source, "--out", folder_of(n), *model, *told, *seed])
        return first


def folder_of(number: int) -> str:
    """The folder of a method's result, by its place among the methods."""
    return "restored" if number == 0 else f"restored-{number + 1}"


def script(commands: Sequence[Sequence[str]]) -> str:
    """Write commands as a shell script's lines."""
    return "\n".join(shlex.join(one) for one in commands)
