"""`gaussian-blur:std=2` on the command line -> an operator."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from flashdiffusion.errors import InputError, check_name
from flashdiffusion.physics import BatchedPhysics, Compose
from flashdiffusion.physics.masks import ALPHA
from flashdiffusion.physics.registry import PHYSICS, Form, get_physics

_QUOTED = re.compile(r"""(?<==)("[^"]*"|'[^']*')""")
_NOISE = "noise_std"
AUTO = "auto"  # in place of a noise level: it is estimated


@dataclass(frozen=True)
class Written:
    """One operator as it was written: its form, and the values of its parameters, numbers or files."""

    name: str
    form: Form
    values: dict[str, float | Path]

    @property
    def files(self) -> list[Path]:
        """The files and folders that it names."""
        return [value for value in self.values.values() if isinstance(value, Path)]


def parse_physics(
    text: str,
    size: tuple[int, int],
    generator: torch.Generator,
    noise_std: float = 0.05,
    image: Path | None = None,
    original: tuple[int, int] | None = None,
) -> BatchedPhysics:
    """The operator for one image of `size` (H, W), from `NAME:PARAMETER=VALUE,...[,noise_std=VALUE]`.

    `gaussian-blur:std=2`; `random-inpainting:ratio=0.75` (the mask is drawn from `generator`) or
    `random-inpainting:mask=FILE` (an image, bright where pixels were kept); docs/degradations.md has them all.
    `FIRST+SECOND` is one after the other, with the noise of the last. A file name with a comma, plus or ~ is quoted:
    `mask="a,b.png"`; for a folder it is the file in it by the name of the image (`own_file`).

    Args:
        image: the file of the image.
        original: its height and width, if it was cropped and resized to `size`.

    Raises:
        InputError: unknown name or parameter, or a value that is no number or out of range.
    """
    written = read_physics(text)
    parts = []
    for position, one in enumerate(written):
        values: dict[str, Any] = dict(one.values)
        std = values.pop(_NOISE, noise_std)
        if _NOISE in one.values and position + 1 < len(written):
            raise InputError(
                f"noise_std of {one.name!r}; expected it on the last of the operators, where noise is added"
            )
        for key, value in values.items():
            if not isinstance(value, Path):
                values[key] = torch.tensor([value])
            elif image is not None and value.is_dir():
                values[key] = own_file(value, image)
        about = {"size": size, "generator": generator, "noise_std": std, "image": image, "original": original}
        parts.append(one.form.build(values, **about))
    return reduce(Compose, parts)


def noise_level(text: str | None) -> float | None:
    """σ_y as given, 0.05 if it is not; None if it is to be estimated. Raises InputError for what is no number."""
    if text is None:
        return 0.05
    try:
        return None if text.strip().lower() == AUTO else float(text)
    except ValueError as error:
        raise InputError(f"noise std is {text!r}; expected a number from 0 to 1, or {AUTO}") from error


def with_files(text: str, place: Callable[[Path], Path]) -> str:
    """Write an operator anew, with each file that it names where `place` says that it lies; raises as `parse_physics`.

    The alpha channel of the image itself is no file.
    """
    parts = []
    for one in read_physics(text):
        files = {key: str(value) for key, value in one.values.items() if isinstance(value, Path)}
        placed = {key: file if file == ALPHA else f'"{place(Path(file))}"' for key, file in files.items()}
        values = ",".join(f"{key}={value}" for key, value in (one.values | placed).items())
        parts.append(":".join(filter(None, [one.name, values])))
    return "+".join(parts)


def drawn_by(text: str) -> str | None:
    """What the operator written as `text` draws at random, with how to give it, if it can be; None if nothing.

    Raises:
        InputError: as `parse_physics`.
    """
    for one in read_physics(text):
        if one.form.drawn is not None:
            known = [_form(one.name, other) for other in PHYSICS[one.name].forms if other.drawn is None]
            return f"{one.form.drawn}; give {' or '.join([*known, 'a measurement file'])}"
    return None


def says_noise(text: str) -> bool:
    """Whether noise_std stands among the parameters; raises InputError as `parse_physics`."""
    return any(_NOISE in one.values for one in read_physics(text))


def own_files(text: str | None, image: Path) -> list[Path]:
    """The image's own files, of the folders that `text` names.

    Raises:
        InputError: as `parse_physics`, and `own_file`.
    """
    named = [] if text is None else [file for one in read_physics(text) for file in one.files]
    return [own_file(folder, image) for folder in named if folder.is_dir()]


def takes_alpha(text: str) -> bool:
    """Whether the operator written as `text` takes an image's alpha channel for its mask.

    Raises:
        InputError: as `parse_physics`.
    """
    return any(str(file) == ALPHA for one in read_physics(text) for file in one.files)


def reads_mask(text: str) -> bool:
    """Whether a file, or alpha, says which pixels of y the operator written as `text` loses.

    Raises:
        InputError: as `parse_physics`.
    """
    last = read_physics(text)[-1]
    return bool(last.files) and PHYSICS[last.name].cls.loses


def check_files(text: str, images: Sequence[Path]) -> None:
    """Raise InputError, with the names, unless each image has a file of its own in every folder that `text` names."""
    read_physics(text)  # whose faults are no image's
    missing, reason, served = [], None, dict[Path, Path]()
    for image in images:
        try:
            found = own_files(text, image)
        except InputError as error:
            missing.append(image.name)
            reason = reason or str(error)
            continue
        for file in found:
            if (other := served.setdefault(file, image)) != image:
                raise InputError(
                    f"{file} is the file of both {other} and {image}; expected one for each image: lay them in folders "
                    f"of the same names as the images', as in {file.parent / image.resolve().parent.name / file.name}"
                )
    if missing:
        raise InputError(f"{reason}; {len(missing)} of {len(images)} images lack theirs: {', '.join(missing[:8])}")


def own_file(folder: Path, image: Path) -> Path:
    """The file in a folder by the name of an image, whatever its suffix; in folders of the same names, if there are.

    Raises:
        InputError: there is none, or there are several.
    """
    parents = image.resolve().parent.parts[1:]
    for first in range(len(parents) + 1):
        place = folder.joinpath(*parents[first:])
        same = sorted(file for file in place.glob("*") if file.stem == image.stem and file.is_file())
        same = [file for file in same if file.name == image.name] or same
        if len(same) > 1:
            raise InputError(f"{image} has several files in {place}: {', '.join(file.name for file in same[:4])}")
        if same:
            return same[0]
    raise InputError(f"no file for {image} in {folder}; expected one of the same name, such as {image.stem}.png")


def read_physics(text: str) -> list[Written]:
    """The operators of `FIRST+SECOND`, of which no file is read yet.

    Raises:
        InputError: as `parse_physics`.
    """
    # A plus joins two operators where a name follows it; others belong to numbers and file names.
    names = "|".join(map(re.escape, PHYSICS))
    return [_read(one) for one in _split(text, rf"\+(?=(?:{names})(?:[:+]|$))")]


def _split(text: str, separator: str) -> list[str]:
    """The text between separators that are not quoted."""
    hidden = _QUOTED.sub(lambda found: "_" * len(found[0]), text)
    cuts = [found.span() for found in re.finditer(separator, hidden)]
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def _read(text: str) -> Written:
    name, _, rest = text.partition(":")
    forms = get_physics(name).forms
    if not forms:
        raise InputError(f"{name} has no form on the command line; it is for Python and measurement files")
    expected = " or ".join(_form(name, form) for form in forms)
    known = [key for form in forms for key in form.parameters] + [_NOISE]
    given: dict[str, str] = {}
    for item in filter(None, _split(rest, ",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise InputError(
                f"{item!r} of {name} is no PARAMETER=VALUE; expected {expected}; a value with a comma is quoted, as in "
                'mask="a,b.png"'
            )
        check_name(f"parameter of {name}", key, known)
        if key in given:
            raise InputError(f"{key} of {name} is given as {given[key]} and as {value}; expected it once")
        given[key] = value
    for form in forms:
        if form.needed <= set(given) <= {*form.parameters, _NOISE}:
            return Written(name, form, {key: _value(name, key, value, form) for key, value in given.items()})
    reason = "has other parameters" if set(given) - {_NOISE} else "lacks its parameter"
    raise InputError(f"physics {text!r} {reason}; expected {expected}")


def _form(name: str, form: Form) -> str:
    """How the operator of that name is written."""
    values = (f"{key}={'FILE' if key in form.files else 'NUMBER'}" for key in form.parameters)
    return ":".join(filter(None, [name, ",".join(values)]))


def _value(name: str, key: str, text: str, form: Form) -> float | Path:
    if key in form.files:
        if _QUOTED.fullmatch(f"={text}", 1):
            return Path(text[1:-1])
        with suppress(RuntimeError):  # there is no such user: it is a name like any other
            return Path(text).expanduser()
        return Path(text)
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{key} of {name} is {text!r}; expected a number") from error
