"""Measurement files and images that came degraded, read with their physics."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from flashdiffusion.data import MeasurementFile
from flashdiffusion.data.arrays import ARRAYS, read_array
from flashdiffusion.data.images import fit, read_image, to_tensor
from flashdiffusion.data.measurements import SUFFIX
from flashdiffusion.errors import InputError, SizeError
from flashdiffusion.jobs.parse import parse_physics
from flashdiffusion.physics import PHYSICS, BatchedPhysics, BlurKernelSpace
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.pipeline.inputs import as_measurements, range_note
from flashdiffusion.seeds import image_generator
from flashdiffusion.solvers import Problem
from flashdiffusion.solvers.rows import Unknown

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


def read_noted(path: Path, note: Note) -> Image.Image:
    """An image as `read_image` gives it; notes what was changed."""
    image = read_image(path)
    for text in image.info["notes"]:
        note(f"{path} {text}")
    return image


def read_truth(path: Path, size: tuple[int, int], fitted: bool, note: Note) -> Tensor:
    """A true image (1, 3, H, W) of a result's height and width.

    Args:
        fitted: whether the result's image was cropped and resized, so that this one is to be too.

    Raises:
        InputError: it cannot be read, or has another size.
    """
    image = read_noted(path, note)
    truth = to_tensor(fit(image, *size) if fitted else image)[None]
    height, width = truth.shape[2:]
    if (height, width) != size:
        raise InputError(
            f"{path} has {width}x{height} pixels and the result {size[1]}x{size[0]}; expected the true image of the "
            "result's size (--fit crops and resizes both)"
        )
    return truth


def is_image(path: Path) -> bool:
    """Whether an input is taken for an image, and not for the exact values of a measurement."""
    return path.suffix != SUFFIX and path.suffix.lower() not in ARRAYS


class Reader:
    """Reads measurement files, arrays and images that came degraded, for a model.

    Args:
        physics, noise_std: what damaged images and gave arrays, as on the command line; None if it is not known.
        seed: of what the physics draws at random.
        fit: crop and resize images so that they are restored at the model's size.
        needed: refuse an image whose physics is not known.

    Raises:
        InputError: `fit`, and the model does not say its size.
    """

    def __init__(
        self,
        pipeline: FlashPipeline,
        physics: str | None = None,
        noise_std: float = 0.05,
        seed: int = 0,
        fit: bool = False,
        needed: bool = False,
    ) -> None:
        if fit and pipeline.sample_size is None:
            raise InputError("--fit: the model's folder does not say its image size; expected sample_size in its index")
        self.pipeline, self.physics, self.noise_std, self.seed = pipeline, physics, noise_std, seed
        self.fit, self.needed = fit, needed
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}  # that images are fitted to, by their own

    def __call__(self, path: Path, name: str, note: Note) -> Measured:
        """Read an input; `note` is told of what was changed.

        Raises:
            FlashDiffusionError: it cannot be used.
        """
        try:
            if path.suffix == SUFFIX:
                one = self._measurement(path, name)
            else:
                one = self._image(path, name, note) if is_image(path) else self._array(path, name)
            one = replace(one, problem=self.pipeline.check(one.problem))
        except SizeError as error:
            if self.fit or not is_image(path):
                raise
            raise InputError(f"{error} (--fit crops and resizes images)") from error
        if not isinstance(one.problem.physics, Unknown):
            one.problem.measure(one.problem.image)  # raises if it fits no y of this shape
        if (text := range_note(one.problem.y, one.problem.physics)) is not None:
            note(f"{path}: {text}")
        return one

    def _size(self, path: Path, original: tuple[int, int]) -> tuple[int, int] | None:
        """Height and width that an image is fitted to: those of the measurement of one of the model's size."""
        side = self.pipeline.sample_size
        if not self.fit or side is None:
            return None
        if original not in self._sizes:
            physics = self._physics_of("", (side, side), path, original)
            shape = (side, side) if physics is None else physics.A(torch.zeros(1, 3, side, side)).shape[2:]
            self._sizes[original] = (shape[0], shape[1])
        return self._sizes[original]

    def _image(self, path: Path, name: str, note: Note) -> Measured:
        image = read_noted(path, note)
        original = (image.height, image.width)
        size = self._size(path, original) or original
        physics = self._physics_of(name, size, path, original)
        if physics is None and self.needed:
            raise InputError(f"{name} is an image: say what damaged it with --physics, e.g. gaussian-blur:std=2")
        y = to_tensor(fit(image, *size) if self.fit else image)[None]
        return Measured(path, name, _problem(y, physics), self.fit, image.info["grey"])

    def _array(self, path: Path, name: str) -> Measured:
        array = read_array(path)
        height, width = (1, 1, *array.shape)[-2:]
        physics = self._physics_of(name, (height, width), path)
        if physics is None and self.needed:
            raise InputError(f"{path} holds no physics: say what gave it with --physics, e.g. gaussian-blur:std=2")
        y, grey = as_measurements(array, physics or _as_it_is)
        y = y if y.ndim == 4 else y[None]
        if y.ndim != 4 or len(y) != 1 or y.shape[1] != 3:
            raise InputError(
                f"{path} holds an array of shape {tuple(array.shape)}; expected one measurement, (3, H, W), (H, W, 3) "
                "or, if it is grey, (H, W)"
            )
        return Measured(path, name, _problem(y, physics), grey=grey)

    def _measurement(self, path: Path, name: str) -> Measured:
        file = MeasurementFile.load(path)
        if file.physics == BlurKernelSpace.name:
            physics = _with_network(file.params, file.noise_std, self._physics_of(name, (1, 1), path), self.needed)
        elif file.physics in PHYSICS:
            physics = PHYSICS[file.physics].cls.from_params(file.params, file.noise_std)
        else:
            raise InputError(
                f"{path} was made by {file.physics!r}; this library knows {', '.join(PHYSICS)}; if it is of a file of "
                "yours, give --plugin FILE"
            )
        return Measured(path, name, _problem(file.y[None], physics), file.fitted, file.grey)

    def _physics_of(
        self, name: str, size: tuple[int, int], path: Path, original: tuple[int, int] | None = None
    ) -> BatchedPhysics | None:
        if self.physics is None:
            return None
        return parse_physics(
            self.physics, size, image_generator(self.seed, name), self.noise_std, path, original if self.fit else None
        )


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _problem(y: Tensor, physics: BatchedPhysics | None) -> Problem:
    return Problem(y) if physics is None else Problem(y, physics)


def _with_network(
    params: dict[str, Tensor], noise_std: float, given: BatchedPhysics | None, needed: bool
) -> BatchedPhysics | None:
    """The blur-kernel-space operator of a measurement file, with the network of the one that `--physics` gives."""
    if given is None and not needed:
        return None
    if set(params) != {"code"}:
        raise InputError(f"{BlurKernelSpace.name} has the parameter code; got {sorted(params)}")
    if not isinstance(given, BlurKernelSpace):
        raise InputError(f"made by {BlurKernelSpace.name}: needs --physics {BlurKernelSpace.name}:weights=FILE")
    return BlurKernelSpace(given.network, params["code"], noise_std)
