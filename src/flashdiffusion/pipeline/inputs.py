"""What people hand over, as measurements and physics: arrays, images, paths, lists; functions."""

from collections.abc import Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flashdiffusion.data.arrays import ARRAYS, from_numpy, read_array
from flashdiffusion.data.pictures import Kind, Picture, from_pillow, read_picture
from flashdiffusion.errors import InputError
from flashdiffusion.physics import BatchedPhysics, is_linear, noise_std_of
from flashdiffusion.types import Physics

Given = Tensor | np.ndarray | Image.Image | Picture | str | Path | Sequence[Any]
# Values below this, beyond five standard deviations of the noise, are no noise; nor are values up to this above 1.
BELOW, ABOVE = -0.3, 1.3
# Pixels are of one colour up to NEAR, which compression leaves; holes if so many are, and a picture if fewer are.
NEAR, HOLES, PICTURE = 8 / 255, 0.9, 0.5


def as_measurements(value: Given, physics: Any) -> tuple[Tensor, bool]:
    """Measurements, and whether they are grey images, which become three channels; see `read_measurements`."""
    y, kinds = read_measurements(value, physics)
    return y, all(kind.grey for kind in kinds)


def read_measurements(value: Given, physics: Any) -> tuple[Tensor, list[Kind]]:
    """Measurements as floats with the batch first, and the kind of picture of each; grey ones become three channels.

    A tensor is (B, ...), or one image (C, H, W) or (H, W). An array is the same, or has its channels last; integers are
    scaled to [0, 1]. A path is that of an image, or of a file with an array (.npy, .npz, .pt, .mat). Images are RGB.
    Of a list the items are one image each.

    Raises:
        InputError: another type, or images of different sizes in a list.
    """
    if isinstance(value, (list, tuple)):
        if not value:
            raise InputError("measurements are an empty list; expected at least one image")
        parts = [read_measurements(one, physics) for one in value]
        shapes = {tuple(part.shape[1:]) for part, _ in parts}
        if len(shapes) != 1:
            raise InputError(f"a list of images of the shapes {sorted(shapes)}; expected one size, or use `stream`")
        return torch.cat([part for part, _ in parts]), [kind for _, kinds in parts for kind in kinds]
    if isinstance(value, (str, Path)) and Path(value).suffix.lower() in ARRAYS:
        value = read_array(value)
    if isinstance(value, (str, Path)):
        value = read_picture(value)
    if isinstance(value, Image.Image):
        value = from_pillow(value)
    if isinstance(value, Picture):
        return value.values[None], [value.kind]
    if isinstance(value, np.ndarray):
        value = from_numpy(value)
    if not isinstance(value, Tensor):
        raise InputError(f"measurements are a {type(value).__name__}; expected a tensor, an array, an image or a path")
    y, grey = _batched(value, physics)
    return y, [Kind(grey)] * len(y)


def _batched(y: Tensor, physics: Any) -> tuple[Tensor, bool]:
    image = y
    if y.ndim == 2:
        image = y[None, None]
    elif y.ndim == 3 and len(y) in {1, 3}:
        image = y[None]
    if image.ndim != 4 or image.shape[1] not in {1, 3} or not _measures_images(physics, image):
        return y, False
    grey = image.shape[1] == 1
    return (image.expand(-1, 3, -1, -1) if grey else image), grey


def _measures_images(physics: Any, image: Tensor) -> bool:
    """Whether measurements are RGB images, so that one of a channel is a grey image; A of a grey one tells."""
    if isinstance(physics, BatchedPhysics):
        return physics.gives_images
    if image.shape[1] == 3:
        return not (isinstance(physics, Sized) and len(physics) != len(image))
    try:
        measured = getattr(physics, "A", physics)(torch.zeros(len(image), 3, *image.shape[2:], dtype=image.dtype))
    except Exception:  # it takes no such images
        return False
    return isinstance(measured, Tensor) and measured.ndim == 4 and measured.shape[1] == 3


def doubts(y: Tensor, physics: Physics) -> Iterator[str]:
    """What to say of measurements that are probably not what their physics takes them for."""
    if not _images_by(physics) or y.ndim != 4 or y.shape[1] != 3:
        return
    std = noise_std_of(physics)
    noise = float(std.max()) if std is not None and len(std) else 0.0
    low, high = float(y.min()), float(y.max())
    if low < BELOW - 5 * noise and high <= ABOVE:  # not where it is no number
        yield (
            f"measurements range from {low:.2f} to {high:.2f}, as if on the [-1, 1] scale; expected [0, 1]: "
            "pass (y + 1) / 2"
        )
    if isinstance(physics, BatchedPhysics) and physics.loses:
        kept = physics.measured(torch.ones_like(y)) != 0
        for n, (image, mask) in enumerate(zip(y, kept.all(dim=1), strict=True)):
            inside, outside = _of_one_colour(image[:, mask]), _of_one_colour(image[:, ~mask])
            if inside >= HOLES and outside < PICTURE:
                which = "the mask" if len(y) == 1 else f"the mask of image {n + 1} of {len(y)}"
                yield (
                    f"{which} seems to be inverted: what it keeps is of one colour ({inside:.0%} of these pixels), as "
                    f"holes are, and what it drops is not ({outside:.0%}). If the mask marks what was lost, invert it: "
                    "in Python pass 1 - mask; in a file white is kept and black is lost"
                )


def _of_one_colour(pixels: Tensor) -> float:
    """The share of pixels (3, n) that have the most usual colour; NaN of none."""
    usual = pixels.median(dim=1, keepdim=True).values if pixels.numel() else pixels
    return float(((pixels - usual).abs() <= NEAR).all(dim=0).float().mean())


def _images_by(physics: Physics) -> bool:
    """Whether measurements of a physics are images, as far as that is known."""
    return physics.gives_images if isinstance(physics, BatchedPhysics) else not is_linear(physics)


def size_of_images(y: Tensor, physics: Physics) -> tuple[int, int] | None:
    """Height and width in pixels of the images that were measured; None where measurements are no images."""
    if not _images_by(physics) or y.ndim != 4:
        return None
    unit = physics.pixel_size if isinstance(physics, BatchedPhysics) else 1
    return unit * y.shape[2], unit * y.shape[3]


def lost_share(physics: Physics, y: Tensor) -> float:
    """The share of the entries of y that are no data, from 0 to 1."""
    if not isinstance(physics, BatchedPhysics) or not physics.loses:
        return 0.0
    return float((physics.measured(torch.ones_like(y)) == 0).float().mean())
