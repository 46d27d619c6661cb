"""Measurement files and images that came degraded, read with their physics."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from flashdiffusion.data import MeasurementFile
from flashdiffusion.data.images import fit, read_image, to_tensor
from flashdiffusion.data.measurements import SUFFIX
from flashdiffusion.errors import InputError, SizeError
from flashdiffusion.physics import PHYSICS, BatchedPhysics, BlurKernelSpace
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.solvers import Problem
from flashdiffusion.solvers.problem import Unknown

MakePhysics = Callable[[str, tuple[int, int]], BatchedPhysics | None]
Check = Callable[[Problem], Problem]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """One input: its file, name, and y (1, ...) with its physics, if known.

    fitted: whether it was cropped and resized. grey: whether it was a grey image.
    """

    path: Path
    name: str
    problem: Problem
    fitted: bool = False
    grey: bool = False


def fitted_size(pipeline: FlashPipeline, fit: bool) -> int | None:
    """The side that `--fit` brings images to, None without it.

    Raises:
        InputError: the model does not say its image size.
    """
    if fit and pipeline.sample_size is None:
        raise InputError("--fit: the model's folder does not say its image size; expected sample_size in its index")
    return pipeline.sample_size if fit else None


def read_row(path: Path, size: int | tuple[int, int] | None, note: Note) -> Tensor:
    """An image as (1, 3, H, W) in [0, 1], cropped to `size` (a side, or H and W); notes what was changed."""
    return read_row_and_grey(path, size, note)[0]


def read_row_and_grey(path: Path, size: int | tuple[int, int] | None, note: Note) -> tuple[Tensor, bool]:
    """See `read_row`; and whether the image was grey."""
    image = read_image(path)
    for text in image.info["notes"]:
        note(f"{path} {text}")
    if isinstance(size, int):
        size = (size, size)
    return to_tensor(image if size is None else fit(image, *size))[None], image.info["grey"]


def read_truth(path: Path, size: tuple[int, int], fitted: bool, note: Note) -> Tensor:
    """A true image (1, 3, H, W) of a result's height and width.

    Args:
        fitted: whether the result's image was cropped and resized, so that this one is to be too.

    Raises:
        InputError: it cannot be read, or has another size.
    """
    truth = read_row(path, size if fitted else None, note)
    height, width = truth.shape[2:]
    if (height, width) != size:
        raise InputError(
            f"{path} has {width}x{height} pixels and the result {size[1]}x{size[0]}; expected the true image of the "
            "result's size (--fit crops and resizes both)"
        )
    return truth


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
        make_physics: physics of an image file, from its name and size.
        check: see `FlashPipeline.check`.
        size: fit images to this size (a side, or H and W); None leaves them as they are.

    Raises:
        FlashDiffusionError: it cannot be used.
    """
    try:
        one = _read(path, name, make_physics, size, note)
        one = replace(one, problem=check(one.problem))
    except SizeError as error:
        if size is not None or path.suffix == SUFFIX:
            raise
        raise InputError(f"{error} (--fit crops and resizes images)") from error
    if not isinstance(one.problem.physics, Unknown):
        one.problem.measure(one.problem.image)  # raises if it fits no y of this shape
    return one


def _read(path: Path, name: str, make_physics: MakePhysics, size: int | tuple[int, int] | None, note: Note) -> Measured:
    if path.suffix != SUFFIX:
        y, grey = read_row_and_grey(path, size, note)
        return Measured(path, name, _problem(y, make_physics(name, (y.shape[2], y.shape[3]))), size is not None, grey)
    file = MeasurementFile.load(path)
    y = file.y[None]
    if file.physics == BlurKernelSpace.name:
        physics = _with_network(file.params, file.noise_std, make_physics(name, (1, 1)))
    elif file.physics in PHYSICS:
        physics = PHYSICS[file.physics].cls.from_params(file.params, file.noise_std)
    else:
        raise InputError(f"{path} was made by {file.physics!r}; this library knows {', '.join(PHYSICS)}")
    return Measured(path, name, _problem(y, physics), file.fitted, file.grey)


def _problem(y: Tensor, physics: BatchedPhysics | None) -> Problem:
    return Problem(y) if physics is None else Problem(y, physics)


def _with_network(params: dict[str, Tensor], noise_std: float, given: BatchedPhysics | None) -> BatchedPhysics | None:
    """The blur-kernel-space operator of a measurement file, with the network of the one that `--physics` gives."""
    if given is None:
        return None
    if set(params) != {"code"}:
        raise InputError(f"{BlurKernelSpace.name} has the parameter code; got {sorted(params)}")
    if not isinstance(given, BlurKernelSpace):
        raise InputError(f"made by {BlurKernelSpace.name}: needs --physics {BlurKernelSpace.name}:weights=FILE")
    return BlurKernelSpace(given.network, params["code"], noise_std)
