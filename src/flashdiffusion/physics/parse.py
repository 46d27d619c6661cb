"""`gaussian-blur:std=2` on the command line -> an operator."""

from pathlib import Path

import torch

from flashdiffusion.data import load_picture
from flashdiffusion.errors import InputError, unknown_name
from flashdiffusion.physics.base import BatchedPhysics
from flashdiffusion.physics.inpainting import RandomInpainting
from flashdiffusion.physics.tasks import TASKS

_PARAMETERS = {"gaussian-blur": ("std",), "random-inpainting": ("ratio", "mask")}


def parse_physics(
    text: str, size: tuple[int, int], generator: torch.Generator, noise_std: float = 0.05
) -> BatchedPhysics:
    """The operator for one picture, from `NAME:PARAMETER=VALUE[,noise_std=VALUE]`.

    `gaussian-blur:std=2`, `random-inpainting:ratio=0.75` (the mask is drawn from `generator`) or
    `random-inpainting:mask=FILE` (a picture, white where pixels were kept).

    Raises:
        InputError: unknown name or parameter, or a value that is no number or out of range.
    """
    name, _, rest = text.partition(":")
    if name not in _PARAMETERS:
        raise unknown_name("physics", name, _PARAMETERS)
    given = dict(item.partition("=")[::2] for item in rest.split(",") if item)
    for key in given:
        if key not in {*_PARAMETERS[name], "noise_std"}:
            raise unknown_name(f"parameter of {name}", key, [*_PARAMETERS[name], "noise_std"])
    if "noise_std" in given:
        noise_std = _number(name, "noise_std", given["noise_std"])
    if "mask" in given:
        mask = load_picture(Path(given["mask"])).mean(dim=0)[None, None]
        return RandomInpainting((mask > 0.5).float(), noise_std)
    level = TASKS[name].level
    if level not in given:
        raise InputError(f"physics {text!r} lacks its parameter; expected {name}:{level}=NUMBER")
    return TASKS[name].build(torch.tensor([_number(name, level, given[level])]), size, generator, noise_std)


def _number(name: str, key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{key} of {name} is {text!r}; expected a number") from error
