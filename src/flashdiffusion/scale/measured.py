"""Measurement files and pictures that came degraded, read with their physics."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from flashdiffusion.data import MeasurementFile
from flashdiffusion.data.measurements import SUFFIX
from flashdiffusion.data.pictures import fit, read_picture, to_tensor
from flashdiffusion.errors import InputError, SizeError
from flashdiffusion.physics import OPERATORS, BatchedPhysics, BlurKernelSpace
from flashdiffusion.physics.base import expect_params
from flashdiffusion.pipeline import FlashPipeline

MakePhysics = Callable[[str, tuple[int, int]], BatchedPhysics | None]
Check = Callable[[Tensor, BatchedPhysics | None], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """One input: its file, name, y (1, ...), and its physics for one picture if known."""

    path: Path
    name: str
    y: Tensor
    physics: BatchedPhysics | None

    @property
    def picture(self) -> Tensor:
        """y as a picture (1, 3, H, W) of the size to restore."""
        return self.y if self.physics is None else self.physics.picture(self.y)


def fitted_size(pipeline: FlashPipeline, fit: bool) -> int | None:
    """The side that `--fit` brings pictures to, None without it.

    Raises:
        InputError: the model does not say its picture size.
    """
    if fit and pipeline.sample_size is None:
        raise InputError("--fit: the model's folder does not say its picture size; expected sample_size in its index")
    return pipeline.sample_size if fit else None


def read_image(path: Path, size: int | tuple[int, int] | None, note: Note) -> Tensor:
    """A picture as (1, 3, H, W) in [0, 1], cropped to `size` (a side, or H and W); notes it if it was not RGB."""
    picture = read_picture(path)
    if (mode := picture.info.get("mode", "RGB")) != "RGB":
        ground = " on white" if mode in {"RGBA", "LA", "PA"} else ""
        note(f"{path} has mode {mode}; converted to RGB{ground}")
    if isinstance(size, int):
        size = (size, size)
    return to_tensor(picture if size is None else fit(picture, *size))[None]


def read_measured(
    path: Path,
    name: str,
    make_physics: MakePhysics,
    check: Check,
    size: int | tuple[int, int] | None,
    note: Note,
) -> Measured:
    """Read an input.

    Args:
        make_physics: physics of a picture file, from its name and size.
        check: raises InputError for a y, with its physics, that the model cannot take.
        size: fit pictures to this size (a side, or H and W); None leaves them as they are.

    Raises:
        FlashDiffusionError: it cannot be used.
    """
    try:
        one = _read(path, name, make_physics, size, note)
        check(one.y, one.physics)
    except SizeError as error:
        if size is not None or path.suffix == SUFFIX:
            raise
        raise InputError(f"{error} (--fit crops and resizes pictures)") from error
    if one.physics is not None and (shape := one.physics.A(one.picture).shape) != one.y.shape:
        raise InputError(f"{one.physics.name} gives measurements of shape {tuple(shape)}; y has {tuple(one.y.shape)}")
    return one


def _read(path: Path, name: str, make_physics: MakePhysics, size: int | tuple[int, int] | None, note: Note) -> Measured:
    if path.suffix != SUFFIX:
        y = read_image(path, size, note)
        return Measured(path, name, y, make_physics(name, (y.shape[2], y.shape[3])))
    file = MeasurementFile.load(path)
    y = file.y[None]
    if file.physics == BlurKernelSpace.name:
        return Measured(path, name, y, _with_network(file.params, file.noise_std, make_physics(name, (1, 1))))
    if file.physics not in OPERATORS:
        raise InputError(f"{path} was made by {file.physics!r}; this library knows {', '.join(OPERATORS)}")
    return Measured(path, name, y, OPERATORS[file.physics].from_params(file.params, file.noise_std))


def _with_network(params: dict[str, Tensor], noise_std: float, given: BatchedPhysics | None) -> BatchedPhysics | None:
    """The blur-kernel-space operator of a measurement file, with the network of the one that `--physics` gives."""
    if given is None:
        return None
    expect_params(BlurKernelSpace.name, params, "code")
    if not isinstance(given, BlurKernelSpace):
        raise InputError(f"made by {BlurKernelSpace.name}: needs --physics {BlurKernelSpace.name}:weights=FILE")
    return BlurKernelSpace(given.network, params["code"], noise_std)
