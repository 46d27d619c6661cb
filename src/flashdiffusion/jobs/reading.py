"""Measurement files and images that came degraded, read with their physics."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from flashdiffusion.data import Kind, MeasurementFile, Picture, read_picture
from flashdiffusion.data.arrays import ARRAYS, read_rounded, shape_of
from flashdiffusion.data.decoding import size_of
from flashdiffusion.data.measurements import SUFFIX
from flashdiffusion.engine.tiling import Tiling, tiling_of
from flashdiffusion.errors import AreaError, InputError, SizeError, read_as, sized
from flashdiffusion.jobs.job import Item
from flashdiffusion.jobs.parse import (
    check_files,
    drawn_by,
    parse_physics,
    read_physics,
    reads_mask,
    says_noise,
    takes_alpha,
)
from flashdiffusion.jobs.tiles import InTiles
from flashdiffusion.physics import JPEG, PHYSICS, BatchedPhysics, BlurKernelSpace, Window, estimate_noise_std
from flashdiffusion.physics.jpeg import quality_of, rounding_std
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.pipeline.inputs import as_measurements, doubts, lost_share
from flashdiffusion.seeds import image_generator
from flashdiffusion.solvers import Problem
from flashdiffusion.solvers.rows import Unknown

FEWEST, LONGEST = 4, 8  # of images that are worth cropping: pixels of the shorter side, and times it of the longer
ROUNDED = (
    "are JPEG files, whose compression hides noise: what it may round away is taken for noise too, unless --physics "
    "has +jpeg:quality=Q"
)
LONG = 2048  # pixels of a side that a picture restored in one piece may always have
MASKED = "lose pixels where their mask is dark"
Note = Callable[[str], None]
Read = tuple[Tensor, BatchedPhysics | None]  # y (1, ...) and its physics, if known


def read_noted(path: Path, note: Note) -> Picture:
    """A picture as `read_picture` gives it; notes what was changed."""
    picture = read_picture(path)
    for text in picture.notes:
        note(f"{path} {text}")
    return picture


def read_truth(path: Path, size: tuple[int, int], fitted: bool, unit: int, note: Note) -> Tensor:
    """A true image (1, 3, H, W) of a result's height and width.

    Args:
        fitted: whether the result's image was cropped and resized, so that this one is to be too.
        unit: pixels of a result that a pixel of its measurement stands for, a side; see `check_size`.

    Raises:
        InputError: it cannot be read, or has another size.
    """
    with read_as("true image"):
        picture = read_noted(path, note)
    if fitted:
        return picture.fitted(*size).values[None]
    check_size(path, picture.size, size, unit)
    return picture.cropped(*size).values[None]


def check_size(path: Path, own: tuple[int, int], size: tuple[int, int], unit: int, hint: str = "") -> None:
    """Raise InputError, with a hint, unless a true image is of a result's height and width.

    Or of those before it was cut to sides that `unit` divides, as `degrade` does for super-resolution.
    """
    if size not in (own, Window.divided(own, unit).size):
        raise InputError(
            f"{path} has {sized(*own)} and the result {sized(*size)}; expected the true image of the result's "
            f"size{hint}"
        )


def is_image(path: Path) -> bool:
    """Whether an input is taken for an image, and not for the exact values of a measurement."""
    return path.suffix != SUFFIX and path.suffix.lower() not in ARRAYS


class Reader:
    """Reads measurement files, arrays and images that came degraded, for a model.

    Args:
        physics: what damaged images and gave arrays, as on the command line; None if it is not known.
        noise_std: of images and arrays; None to estimate it from each, see `estimate_noise_std`.
        seed: of what the physics draws at random.
        fit: crop and resize images so that they are restored at the model's size.
        needed: refuse an image whose physics is not known.
        tile: side in pixels of the tiles that pictures are restored in, see `Model.tile_for`: these are not padded, and
            a tile of them is checked.
        most: pixels that an image or its result may have; others are refused before they are decoded.

    Raises:
        InputError: `fit`, and the model does not say its size; noise that is to be estimated, and `physics` says it.
    """

    def __init__(
        self,
        pipeline: FlashPipeline,
        physics: str | None = None,
        noise_std: float | None = 0.05,
        seed: int = 0,
        fit: bool = False,
        needed: bool = False,
        tile: int | None = 0,
        most: int | None = None,
    ) -> None:
        if fit and pipeline.sample_size is None:
            raise InputError(
                "--fit: the model says no image size of its own, as one of photographs has none; leave --fit out, and "
                "images are restored at theirs; of a model for one size, expected sample_size in its index"
            )
        if noise_std is None and physics is not None:
            check_estimable(physics)
        self.pipeline, self.physics, self.noise_std, self.seed = pipeline, physics, noise_std, seed
        self.fit, self.needed, self.tile, self.most = fit, needed, tile, most
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}  # that images are fitted to, by their own

    def __call__(self, item: Item) -> Problem:
        """Read an item's file: y (1, ...) with its physics, if known; notes on the item what was changed.

        Raises:
            FlashDiffusionError: it cannot be used.
        """
        path = Path(item.path)
        try:
            check_undecoded(path, self.most)
            if path.suffix == SUFFIX:
                y, physics = self._measurement(path, item)
            else:
                y, physics = self._image(path, item) if is_image(path) else self._array(path, item)
            side = 1 if physics is None else physics.pixel_size
            size = side * y.shape[-2], side * y.shape[-1]
            check_area(size, self.most, path, "its result has")
            problem = Problem(y) if physics is None else Problem(y, physics)
            tiling = tiling_of(y, problem.physics, self.pipeline, self.tile)
            if isinstance(tiling, Tiling):
                checked = self.pipeline.check(InTiles(problem, tiling).first)
            else:
                check_sides(size, self.most, path)
                checked = problem = self.pipeline.check(problem)
        except SizeError as error:
            if not self.fit_helps(path, (y.shape[2], y.shape[3])):
                raise
            raise InputError(f"{error} (--fit crops and resizes images)") from error
        if not isinstance(checked.physics, Unknown):
            checked.measure(checked.image)  # raises if it fits no y of this shape
        for text in doubts(problem.y, problem.physics):
            item.note(f"{path}: {text}")
        if path.suffix != SUFFIX and self.physics is not None and reads_mask(self.physics):
            item.shared = {**item.shared, MASKED: f"{path}, {lost_share(problem.physics, problem.y):.0%} of it"}
        return problem

    def fit_helps(self, path: Path, size: tuple[int, int]) -> bool:
        """Whether --fit helps with an input of this size: it is for images, and leaves little of a line of pixels."""
        short, long = sorted(size)
        able = is_image(path) and not self.fit and self.pipeline.sample_size is not None
        return able and short >= FEWEST and long <= LONGEST * short

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

    def _image(self, path: Path, item: Item) -> Read:
        picture = read_noted(path, item.note)
        original = picture.size
        size = self._size(path, original) or original
        physics = self._physics_of(item.name, size, path, original)
        if physics is None and self.needed:
            raise InputError(f"{item.name} is an image: say what damaged it with --physics, e.g. gaussian-blur:std=2")
        picture = picture.fitted(*size) if self.fit else picture
        if self.physics is not None and takes_alpha(self.physics):
            picture = picture.opaque()
        item.fitted, item.kind = self.fit, picture.kind
        y = picture.values[None]
        if self.noise_std is None:
            item.noise_std = estimated(y, physics, picture.kind.bits)
            table = picture.quantisation
            told = [] if self.physics is None else [one.name for one in read_physics(self.physics)]
            if table is not None and JPEG.name not in told:
                self._take_rounding(item, table)
            physics = self._physics_of(item.name, size, path, original, item.noise_std)
        return y, physics

    def _take_rounding(self, item: Item, table: Sequence[int]) -> None:
        """Take what a JPEG file was rounded to for noise, which compression took away; notes it on the item."""
        item.noise_std = min(1.0, math.hypot(item.noise_std or 0.0, rounding_std(table)))
        which = f"{item.path}, of quality about {quality_of(table)}: {item.noise_std:.2g}"
        item.shared = {**item.shared, ROUNDED: which}

    def _array(self, path: Path, item: Item) -> Read:
        array, bits = read_rounded(path)
        height, width = (1, 1, *array.shape)[-2:]
        physics = self._physics_of(item.name, (height, width), path)
        if physics is None and self.needed:
            raise InputError(f"{path} holds no physics: say what gave it with --physics, e.g. gaussian-blur:std=2")
        y, grey = as_measurements(array, physics or (lambda x: x))
        item.kind = Kind(grey)
        y = y if y.ndim == 4 else y[None]
        if y.ndim != 4 or len(y) != 1 or y.shape[1] != 3:
            raise InputError(
                f"{path} holds an array of shape {tuple(array.shape)}; expected one measurement, (3, H, W), (H, W, 3) "
                "or, if it is grey, (H, W)"
            )
        if self.noise_std is None:
            item.noise_std = estimated(y, physics, bits)
            physics = self._physics_of(item.name, (height, width), path, noise_std=item.noise_std)
        return y, physics

    def _measurement(self, path: Path, item: Item) -> Read:
        file = MeasurementFile.load(path)
        physics: BatchedPhysics | None
        if file.physics == BlurKernelSpace.name:
            physics = _with_network(file.params, file.noise_std, self._physics_of(item.name, (1, 1), path), self.needed)
        elif file.physics in PHYSICS:
            physics = PHYSICS[file.physics].cls.from_params(file.params, file.noise_std)
        else:
            raise InputError(
                f"{path} was made by {file.physics!r}; this library knows those of docs/degradations.md; if it is of a "
                "file of yours, give --plugin FILE"
            )
        item.fitted, item.kind = file.fitted, file.kind
        return file.y[None], physics

    def _physics_of(
        self,
        name: str,
        size: tuple[int, int],
        path: Path,
        original: tuple[int, int] | None = None,
        noise_std: float = 0.0,
    ) -> BatchedPhysics | None:
        """What damaged the image; `noise_std` is what was estimated, if it is to be."""
        if self.physics is None:
            return None
        std = noise_std if self.noise_std is None else self.noise_std
        return parse_physics(
            self.physics, size, image_generator(self.seed, name), std, path, original if self.fit else None
        )


def check_estimable(physics: str) -> None:
    """Raise InputError if noise is to be estimated, and `physics` as on the command line says it."""
    if says_noise(physics):
        raise InputError(f"noise std is auto, and {physics} says it too; expected one of them: leave out noise_std=")


def check_physics(physics: str, noise_std: float | None, files: Sequence[Path], seed: int = 0) -> None:
    """Raise InputError unless images and arrays can be restored for what is known of their damage.

    Args:
        physics, noise_std: see `Reader`.
        files: these, of which each has its own in every folder that the physics names.
        seed: of what the physics draws at random.
    """
    check_files(physics, files)
    if noise_std is None:
        check_estimable(physics)
    first = files[0] if files else None
    if files and (unknown := drawn_by(physics)):  # before anything that it names is loaded
        raise InputError(f"to restore an image one must know {unknown}")
    probe = parse_physics(physics, (1, 1), image_generator(seed, ""), noise_std or 0.0, first)
    if not probe.gives_images and (images := [path for path in files if is_image(path)]):
        raise InputError(
            f"{images[0]} is an image, which {physics} does not give: it needs a measurement file that "
            "`flashdiffusion degrade` wrote, or an array (.npy, .npz, .pt, .mat)"
        )


def check_area(size: tuple[int, ...], most: int | None, path: Path, what: str = "it has") -> None:
    """Raise AreaError if an image of this height and width has more than so many pixels; None for no limit."""
    height, width = size[-2:]
    if most is not None and height * width > most:
        raise AreaError(
            f"{path} is too large: {what} {height * width / 1e6:.3g} megapixels; expected at most {most / 1e6:.3g}"
        )


def check_sides(size: tuple[int, int], most: int | None, path: Path) -> None:
    """Raise AreaError if a picture of this height and width that is not cut has a side that would take too much memory.

    Operators hold matrices as large as the square of a side, and attention looks along all of it.

    Args:
        most: pixels that a picture may have, None for no limit; a side may be twice that of such a square, or
            `LONG` if that is more.
    """
    if most is not None and max(size) > (longest := max(LONG, 2 * math.isqrt(most))):
        raise AreaError(
            f"{path} is too long: {sized(*size)}; expected at most {longest} pixels a side of a picture that is "
            "restored in one piece"
        )


def check_undecoded(path: Path, most: int | None) -> None:
    """Raise AreaError as `check_area`, of an image or array that is not decoded yet; one that is neither passes."""
    if most is None or path.suffix == SUFFIX:
        return
    size: tuple[int, ...] = (0, 0)
    with suppress(InputError):  # what is wrong with it is said where it is read
        # An array may be (H, W, 3); one that takes as much room as an image of that area is as large.
        size = size_of(path) if is_image(path) else (1, math.prod(shape_of(path)) // 3)
    check_area(size, most, path)


def estimated(y: Tensor, physics: BatchedPhysics | None, bits: int | None) -> float:
    """Estimate σ_y of one measurement (1, ...) of so many bits, up to 1; raises InputError where that means nothing."""
    reason = None
    if physics is not None and not physics.gives_images:
        reason = f"measurements of {physics.names[0]} are no images"
    elif physics is not None and physics.gain is not None:
        reason = f"that of {physics.names[0]} is of two parts, of which its gain says one"
    if reason is not None:
        raise InputError(f"noise std is auto: noise is estimated from images, and {reason}; expected a number")
    measured = None if physics is None else physics.measured(torch.ones_like(y))
    return min(1.0, float(estimate_noise_std(y, measured, bits)))


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
