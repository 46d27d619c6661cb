"""Holes: lost pixels that lie together, as a scribble or a box leaves them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# A window without any known pixel is a hole if pixels lost at random would leave it with less than this probability.
CHANCE = 1e-6


def find_holes(known: Tensor) -> Tensor:
    """Tell which pixels belong to holes, bool (B, 1, H, W).

    Pixels lost at random, one by one, are no holes, however many they are: the window that must be empty grows with
    the share that is lost.

    Args:
        known: 1 where a pixel was measured, else 0, (B, 1, H, W).
    """
    holes = torch.zeros_like(known, dtype=torch.bool)
    share = known.flatten(1).mean(dim=1)
    pixels = math.log(CHANCE) / (1 - share.clamp(1e-6, 1 - 1e-6)).log()
    reach = ((pixels.sqrt() - 1) / 2).ceil().clamp(1, min(known.shape[2:])).int()
    reach[share == 1] = 0  # nothing is lost
    for radius in sorted({*reach.tolist()} - {0}):
        rows = (reach == radius).nonzero()[:, 0]
        own, side = known[rows], 2 * radius + 1
        empty = F.max_pool2d(F.pad(own, [radius] * 4, value=1.0), side, stride=1) == 0
        empty |= (share[rows] == 0).view(-1, 1, 1, 1)
        holes[rows] = (F.max_pool2d(empty.to(own), side, stride=1, padding=radius) > 0) & (own == 0)
    return holes
