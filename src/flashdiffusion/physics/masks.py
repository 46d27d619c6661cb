"""Masks from image files: which pixels were kept."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flashdiffusion.data.decoding import decode_as_stored
from flashdiffusion.data.images import LARGEST_FILE, fit, read_bytes
from flashdiffusion.errors import InputError, read_as
from flashdiffusion.physics.base import Size

ALPHA = "alpha"  # in place of a mask: the alpha channel of the image itself
_STROKES, _INERTIA, _SPEED = 64, 0.9, 0.012  # stretches of a scribble; how it moves, the last in shorter sides
_TOUCHED = 0.02  # of a pixel that is resized: the share of lost ones up to which it tells of the image
_NEAR = 0.1  # of the range between a mask's two levels: how far compression may move a value
_EXPECTED = "expected two levels, the brighter one where pixels were kept, in one channel or in alpha"


def fit_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Crop and resize a mask (1, 1, H, W) as `data.images.fit` does an image; what a lost pixel enters is lost."""
    lost = np.array(fit(Image.fromarray(1 - mask[0, 0].numpy()), height, width))
    return torch.from_numpy((np.abs(lost) <= _TOUCHED).astype(np.float32))[None, None]


def read_mask(path: str | Path, channel: str | None = None) -> Tensor:
    """Read a mask: 1 where a pixel was kept and 0 where it was lost, float32 (1, 1, H, W).

    The file has two levels, whatever they are (0 and 1, 0 and 127, 0 and 255): the brighter one is kept. Where alpha
    varies and colour does not, alpha is the mask, and transparent is lost.

    Args:
        channel: "alpha" for alpha, whatever the colours.

    Raises:
        InputError: an unreadable file, channels that differ, a single level other than the lowest or highest, more than
            two levels, or no alpha where it is asked for.
    """
    with read_as("mask"):
        image = decode_as_stored(read_bytes(path, LARGEST_FILE), str(path), [])
    has_alpha = image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info
    depth = 65535 if image.mode.startswith("I") else 255
    if image.mode in {"1", "P", "CMYK", "YCbCr", "LAB", "HSV", "La", "PA", "RGBa"} or has_alpha:
        image = image.convert("RGBA" if has_alpha else "RGB")
    values = np.asarray(image, dtype=np.float32)
    planes = values[..., None] if values.ndim == 2 else values
    colours, alpha = (planes[..., :-1], planes[..., -1]) if has_alpha else (planes, None)
    if channel == ALPHA:
        if alpha is None:
            raise InputError(f"{path} has no alpha channel; give its mask as a file, mask=FILE")
        return torch.from_numpy(_kept(alpha, depth, path))[None, None]
    if np.ptp(colours, axis=2).max() > _NEAR * depth:
        raise InputError(f"mask {path} differs from channel to channel; {_EXPECTED}: all channels are lost together")
    plane = colours.mean(axis=2)
    if alpha is not None and np.ptp(alpha) > 0:
        if np.ptp(plane) > 0:
            raise InputError(f"mask {path} has both a varying alpha and varying colours; {_EXPECTED}")
        plane = alpha
    return torch.from_numpy(_kept(plane, depth, path))[None, None]


def _kept(plane: np.ndarray, depth: int, path: str | Path) -> np.ndarray:
    low, high = float(plane.min()), float(plane.max())
    if low == high:
        if high in {0.0, float(depth)}:
            return (plane > 0).astype(np.float32)
        raise InputError(f"mask {path} has the value {high:g} alone; {_EXPECTED}")
    position = (plane - low) / (high - low)
    between = float(((position > _NEAR) & (position < 1 - _NEAR)).mean())
    if between > _NEAR:
        raise InputError(f"mask {path}: {between:.0%} of its values lie between {low:g} and {high:g}; {_EXPECTED}")
    return (position > 0.5).astype(np.float32)


def distance_to_scribble(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Draw a line per image, a walk with inertia; give each pixel's distance from it in pixels, (count, 1, H, W).

    It starts anywhere and is reflected at the borders. Both are on the generator's device.
    """
    extent = torch.tensor(size, dtype=torch.float32, device=generator.device)
    position = torch.rand(count, 2, generator=generator, device=generator.device) * extent
    push = torch.randn(count, _STROKES, 2, generator=generator, device=generator.device)
    velocity, squared = torch.zeros_like(position), torch.full((count, *size), torch.inf, device=extent.device)
    rows, columns = (torch.arange(side, device=extent.device) for side in size)
    pixels = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    for stroke in range(_STROKES):
        velocity = _INERTIA * velocity + push[:, stroke] * min(size) * _SPEED
        outside = (position + velocity < 0) | (position + velocity > extent)
        velocity = torch.where(outside, -velocity, velocity)
        squared = squared.minimum(_squared_distance(pixels, position, velocity))
        position = position + velocity
    return squared.sqrt()[:, None]


def _squared_distance(pixels: Tensor, begin: Tensor, along: Tensor) -> Tensor:
    """Square the distances of pixels (H, W, 2) from the stretch from `begin` (B, 2) to `begin + along`, (B, H, W)."""
    offset = pixels - begin[:, None, None]
    stretch = along[:, None, None]
    part = (offset * stretch).sum(-1) / stretch.square().sum(-1).clamp(min=1e-12)
    return (offset - part.clamp(0, 1)[..., None] * stretch).square().sum(-1)
