"""`gaussian-blur:std=2` on the command line -> an operator."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

import torch

from flashdiffusion.errors import InputError, unknown_name
from flashdiffusion.physics.base import BatchedPhysics
from flashdiffusion.physics.blur import GaussianBlur
from flashdiffusion.physics.blur_kernel_space import BlurKernelSpace
from flashdiffusion.physics.compose import Compose
from flashdiffusion.physics.hdr import HDR
from flashdiffusion.physics.inpainting import BoxInpainting, RandomInpainting
from flashdiffusion.physics.jpeg import JPEG
from flashdiffusion.physics.kernel_wizard import KernelWizard
from flashdiffusion.physics.masks import read_mask
from flashdiffusion.physics.motion_blur import MotionBlur
from flashdiffusion.physics.nonlinear_blur import CameraShake
from flashdiffusion.physics.phase_retrieval import PhaseRetrieval
from flashdiffusion.physics.super_resolution import SuperResolution

# Numbers (1,), or the name of a file; size (H, W); generator; noise_std.
Build = Callable[[dict[str, Any], tuple[int, int], torch.Generator, float], BatchedPhysics]
_FILES = ("mask", "weights")  # parameters that are files; the others are numbers


@dataclass(frozen=True)
class _Form:
    """One way to write an operator: its parameters, each with the value it has if left out (None: it may not be)."""

    parameters: dict[str, float | None]
    build: Build
    drawn: str | None = None  # what it draws at random: unknown to those who restore an image

    def written(self, name: str) -> str:
        values = (f"{key}={'FILE' if key in _FILES else 'NUMBER'}" for key in self.parameters)
        return f"{name}:{','.join(values)}"


def _mask(v: dict[str, Any], size: tuple[int, int], generator: torch.Generator, noise_std: float) -> BatchedPhysics:
    return RandomInpainting(read_mask(Path(v["mask"]).expanduser()), noise_std)


@lru_cache(maxsize=1)  # one network for all images of a command
def _network(path: str) -> KernelWizard:
    return KernelWizard.from_file(path)


_FORMS: dict[str, tuple[_Form, ...]] = {
    "gaussian-blur": (_Form({"std": None}, lambda v, size, g, n: GaussianBlur(v["std"], n)),),
    "random-inpainting": (
        _Form(
            {"ratio": None},
            lambda v, size, g, n: RandomInpainting.from_ratio(v["ratio"], size, g, n),
            drawn="which pixels are lost",
        ),
        _Form({"mask": None}, _mask),
    ),
    "box-inpainting": (
        _Form(
            {"top": None, "left": None, "height": None, "width": None},
            lambda v, size, g, n: BoxInpainting(**v, noise_std=n),
        ),
    ),
    "super-resolution": (_Form({"factor": 4.0}, lambda v, size, g, n: SuperResolution(v["factor"], n)),),
    "motion-blur": (
        _Form({"length": None, "angle": 0.0}, lambda v, size, g, n: MotionBlur.from_line(v["length"], v["angle"], n)),
        _Form({"std": None}, lambda v, size, g, n: MotionBlur.from_std(v["std"], g, n), drawn="the camera's path"),
    ),
    "nonlinear-blur": (
        _Form({"std": None}, lambda v, size, g, n: CameraShake.from_std(v["std"], g, n), drawn="the camera's path"),
    ),
    "blur-kernel-space": (
        _Form(
            {"weights": None},
            lambda v, size, g, n: BlurKernelSpace.draw(_network(v["weights"]), 1, size, g, n),
            drawn="the kernel code",
        ),
    ),
    "jpeg": (_Form({"quality": None}, lambda v, size, g, n: JPEG(v["quality"], n)),),
    "phase-retrieval": (_Form({"oversampling": 2.0}, lambda v, size, g, n: PhaseRetrieval(v["oversampling"], n)),),
    "hdr": (_Form({"scale": 2.0}, lambda v, size, g, n: HDR(v["scale"], n)),),
}
# A plus joins two operators where a name follows it; others belong to numbers and file names.
_PLUS = re.compile(rf"\+(?=(?:{'|'.join(_FORMS)})(?:[:+]|$))")


def parse_physics(
    text: str, size: tuple[int, int], generator: torch.Generator, noise_std: float = 0.05
) -> BatchedPhysics:
    """The operator for one image of `size` (H, W), from `NAME:PARAMETER=VALUE,...[,noise_std=VALUE]`.

    `gaussian-blur:std=2`; `random-inpainting:ratio=0.75` (the mask is drawn from `generator`) or
    `random-inpainting:mask=FILE` (an image, white where pixels were kept); docs/degradations.md has them all.
    `FIRST+SECOND` is one after the other, with the noise of the last.

    Raises:
        InputError: unknown name or parameter, or a value that is no number or out of range.
    """
    texts = _PLUS.split(text)
    parts = []
    for position, one in enumerate(texts):
        name, form, given = _read(one)
        if "noise_std" in given and position + 1 < len(texts):
            raise InputError(f"noise_std of {one!r}; expected it on the last of the operators, where noise is added")
        std = _number(name, "noise_std", given.pop("noise_std")) if "noise_std" in given else noise_std
        values: dict[str, Any] = {}
        for key, default in form.parameters.items():
            text_of_value = given.get(key)
            if key in _FILES:
                values[key] = text_of_value
            else:
                values[key] = torch.tensor([default if text_of_value is None else _number(name, key, text_of_value)])
        parts.append(form.build(values, size, generator, std))
    return reduce(Compose, parts)


def drawn_by(text: str) -> str | None:
    """What the operator written as `text` draws at random, with how to give it, if it can be; None if nothing.

    Raises:
        InputError: as `parse_physics`.
    """
    for one in _PLUS.split(text):
        name, form, _ = _read(one)
        if form.drawn is not None:
            known = [other.written(name) for other in _FORMS[name] if other.drawn is None]
            return f"{form.drawn}; give {' or '.join([*known, 'a measurement file'])}"
    return None


def _read(text: str) -> tuple[str, _Form, dict[str, str]]:
    """Name, form and parameters of one operator."""
    name, _, rest = text.partition(":")
    if name not in _FORMS:
        raise unknown_name("physics", name, _FORMS)
    known = [key for form in _FORMS[name] for key in form.parameters] + ["noise_std"]
    given: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"{item!r} of {name} is no PARAMETER=VALUE; expected {_written(name)}")
        if key not in known:
            raise unknown_name(f"parameter of {name}", key, known)
        if key in given:
            raise InputError(f"{key} of {name} is given as {given[key]} and as {value}; expected it once")
        given[key] = value
    for form in _FORMS[name]:
        needed = {key for key, default in form.parameters.items() if default is None}
        if needed <= set(given) <= {*form.parameters, "noise_std"}:
            return name, form, given
    few = len(set(given) - {"noise_std"}) == 0
    reason = "lacks its parameter" if few else "has other parameters"
    raise InputError(f"physics {text!r} {reason}; expected {_written(name)}")


def _written(name: str) -> str:
    """All ways to write the operator of that name."""
    return " or ".join(form.written(name) for form in _FORMS[name])


def _number(name: str, key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{key} of {name} is {text!r}; expected a number") from error
