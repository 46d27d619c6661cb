"""Pixels that were not measured, filled smoothly for networks, which would take them for part of the image."""

import torch
import torch.nn.functional as F
from torch import Tensor

RELAXED = 16  # times; pixels lost one by one are close to the solution by then


def filled(image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels of images (B, C, H, W) from means over ever larger blocks of known ones.

    Args:
        known: 1 where a pixel was measured, else 0, (B, 1, H, W).
    """
    sums, weights, levels = image * known, known, []
    while min(weights.shape[2:]) > 1:
        levels.append((sums, weights))
        sums, weights = (F.avg_pool2d(value, 2, ceil_mode=True) for value in (sums, weights))
    coarse = sums / weights.clamp(min=1e-6)
    for sums, weights in reversed(levels):
        coarse = F.interpolate(coarse, size=weights.shape[2:], mode="bilinear")
        coarse = torch.where(weights > 0, sums / weights.clamp(min=1e-6), coarse)
    return coarse


def interpolated(image: Tensor, lost: Tensor) -> Tensor:
    """Interpolate lost pixels of images (B, C, H, W): each becomes the mean of its four neighbours, again and again.

    It begins with the mean of the smallest window that has a known pixel, and comes near the solution of Laplace's
    equation where known pixels are close. What is far away has no say, so that a picture in tiles is filled as a whole
    one is.

    Args:
        lost: 1 where a pixel was not measured, else 0, (B, 1, H, W).
    """
    rows = lost.flatten(1).any(dim=1).nonzero()[:, 0]
    if not len(rows):
        return image
    known = lost[rows] == 0
    given = known.float()
    x = measured = image[rows].float() * given
    found, radius = known, 1
    while radius < 2 * max(image.shape[2:]) and not bool(found.all()):
        weights = _window_mean(given, radius)
        mean = _window_mean(measured, radius) / weights.clamp(min=torch.finfo(weights.dtype).tiny)
        x = torch.where(found, x, mean)
        found, radius = found | (weights > 0), 2 * radius
    for _ in range(RELAXED):
        around = F.pad(x, [1] * 4, mode="replicate")
        sides = around[..., 1:-1, :-2], around[..., 1:-1, 2:], around[..., :-2, 1:-1], around[..., 2:, 1:-1]
        x = torch.where(known, x, sum(sides[1:], sides[0]) / 4)
    return image.index_copy(0, rows, x.to(image.dtype))


def _window_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over squares of 2 radius + 1 pixels, of which those outside the image count as 0."""
    for window in ((1, 2 * radius + 1), (2 * radius + 1, 1)):
        padding = (window[0] // 2, window[1] // 2)
        x = F.avg_pool2d(x, window, stride=1, padding=padding)
    return x
