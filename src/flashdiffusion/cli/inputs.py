"""INPUT... of the commands: measurement files, pictures, folders of either; bad ones are kept apart."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flashdiffusion.errors import FlashDiffusionError, InputError, SizeError

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiffusion.physics.base import BatchedPhysics


@dataclass(frozen=True)
class Measured:
    """One input: its file, name, y (1, ...), and its physics for one picture if known."""

    path: Path
    name: str
    y: "Tensor"
    physics: "BatchedPhysics | None"

    @property
    def picture(self) -> "Tensor":
        """y as a picture (1, 3, H, W) of the size to restore."""
        return self.y if self.physics is None else self.physics.picture(self.y)


@dataclass
class Failures:
    """Inputs that could not be used, with the reason."""

    reasons: list[tuple[str, str]] = field(default_factory=list)

    def finish(self, total: int) -> int:
        """Print what failed; the exit code.

        Raises:
            InputError: the only input failed, or all of them for the same reason.
        """
        reasons = {reason for _, reason in self.reasons}
        if 1 < total == len(self.reasons) and len(reasons) == 1:
            raise InputError(reasons.pop())
        lines = [reason if name in reason else f"{name}: {reason}" for name, reason in self.reasons]
        if total == 1 and lines:
            raise InputError(lines[0])
        for line in lines:
            print(f"flashdiffusion: failed: {' '.join(line.split())}", file=sys.stderr)
        return 1 if lines else 0


def expand(inputs: Iterable[Path]) -> list[Path]:
    """Files as given; of a folder its measurement files, or its pictures if it holds no measurements."""
    from flashdiffusion.data.measurements import SUFFIX
    from flashdiffusion.data.pictures import SUFFIXES

    files: list[Path] = []
    for path in inputs:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        found = [p for p in inside if p.suffix == SUFFIX] or [p for p in inside if p.suffix.lower() in SUFFIXES]
        if not found:
            raise InputError(f"{path} holds neither measurement files nor pictures")
        files += found
    return files


def names_of(files: list[Path]) -> list[str]:
    """A name per file for its outputs: the stem, with a number where stems repeat."""
    taken: dict[str, None] = {}
    for file in files:
        name, n = file.stem, 2
        while name in taken:
            name, n = f"{file.stem}-{n}", n + 1
        taken[name] = None
    return list(taken)


def keep_inputs(files: list[Path], outputs: Iterable[Path]) -> None:
    """Raise InputError if an output would overwrite one of the input files."""
    inputs = {file.resolve() for file in files}
    for path in outputs:
        if path.resolve() in inputs:
            raise InputError(f"{path} is an input and would be overwritten; choose another --out")


def references(folder: Path, names: list[str]) -> dict[str, Path]:
    """The true picture in `folder` of every name.

    Raises:
        InputError: a name has none.
    """
    from flashdiffusion.data.pictures import SUFFIXES

    there = [path for path in sorted(folder.iterdir(), reverse=True) if path.suffix.lower() in SUFFIXES]
    by_name = {path.stem: path for path in there if path.is_file()}  # of several the first, a .jpg before a .png
    missing = [name for name in names if name not in by_name]
    if missing:
        raise InputError(
            f"no picture {missing[0]} in {folder} to compare with; expected one by the name of each input, and "
            f"{len(missing)} of {len(names)} lack theirs"
        )
    return {name: by_name[name] for name in names}


def read_image(path: Path, size: int | tuple[int, int] | None) -> "Tensor":
    """A picture as (1, 3, H, W) in [0, 1], cropped to `size` (a side, or H and W); says so if it was not RGB."""
    from flashdiffusion.data.pictures import fit, read_picture, to_tensor

    picture = read_picture(path)
    if (mode := picture.info.get("mode", "RGB")) != "RGB":
        ground = " on white" if mode in {"RGBA", "LA", "PA"} else ""
        print(f"flashdiffusion: note: {path} has mode {mode}; converted to RGB{ground}", file=sys.stderr)
    if isinstance(size, int):
        size = (size, size)
    return to_tensor(picture if size is None else fit(picture, *size))[None]


def read_measured(
    files: Iterable[tuple[Path, str]],
    make_physics: "Callable[[str, tuple[int, int]], BatchedPhysics | None]",
    check: "Callable[[Tensor, BatchedPhysics | None], None]",
    size: int | tuple[int, int] | None,
) -> tuple[list[Measured], Failures]:
    """Read every file that can be used.

    Args:
        files: paths with the names of their outputs.
        make_physics: physics of a picture file, from its name and size.
        check: raises InputError for a y, with its physics, that the model cannot take.
        size: fit pictures to this size (a side, or H and W); None leaves them as they are.
    """
    from flashdiffusion.data.measurements import SUFFIX

    good, failures = [], Failures()
    for path, name in files:
        try:
            one = _read_one(path, name, make_physics, size)
            check(one.y, one.physics)
            if one.physics is not None and (shape := one.physics.A(one.picture).shape) != one.y.shape:
                raise InputError(
                    f"{one.physics.name} gives measurements of shape {tuple(shape)}; y has {tuple(one.y.shape)}"
                )
            good.append(one)
        except FlashDiffusionError as error:
            fits = isinstance(error, SizeError) and size is None and path.suffix != SUFFIX
            failures.reasons.append((str(path), f"{error} (--fit crops and resizes pictures)" if fits else str(error)))
    return good, failures


def _read_one(
    path: Path,
    name: str,
    make_physics: "Callable[[str, tuple[int, int]], BatchedPhysics | None]",
    size: int | tuple[int, int] | None,
) -> Measured:
    from flashdiffusion.data.measurements import SUFFIX, MeasurementFile
    from flashdiffusion.physics import OPERATORS, BlurKernelSpace

    if path.suffix != SUFFIX:
        y = read_image(path, size)
        return Measured(path, name, y, make_physics(name, (y.shape[2], y.shape[3])))
    file = MeasurementFile.load(path)
    y = file.y[None]
    if file.physics == BlurKernelSpace.name:
        return Measured(path, name, y, _with_network(file.params, file.noise_std, make_physics(name, (1, 1))))
    if file.physics not in OPERATORS:
        raise InputError(f"{path} was made by {file.physics!r}; this library knows {', '.join(OPERATORS)}")
    return Measured(path, name, y, OPERATORS[file.physics].from_params(file.params, file.noise_std))


def _with_network(
    params: "dict[str, Tensor]", noise_std: float, given: "BatchedPhysics | None"
) -> "BatchedPhysics | None":
    """The blur-kernel-space operator of a measurement file, with the network of the one that `--physics` gives."""
    from flashdiffusion.physics import BlurKernelSpace
    from flashdiffusion.physics.base import expect_params

    if given is None:
        return None
    expect_params(BlurKernelSpace.name, params, "code")
    if not isinstance(given, BlurKernelSpace):
        raise InputError(f"made by {BlurKernelSpace.name}: needs --physics {BlurKernelSpace.name}:weights=FILE")
    return BlurKernelSpace(given.network, params["code"], noise_std)
