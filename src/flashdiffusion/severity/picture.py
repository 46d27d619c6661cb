"""A severity map as a picture."""

import torch
import torch.nn.functional as F
from torch import Tensor

COLOURS = "viridis"


def map_picture(variance: Tensor, size: tuple[int, int]) -> Tensor:
    """Show a variance map (h, w) as RGB (3, H, W) in [0, 1], for an image of `size` (H, W).

    The colours stand for the standard deviation in scaled latent units, from 0 (dark blue, nothing is lost) to 1 or
    more (yellow, nothing is known: the latents themselves have a standard deviation of 1), so that pictures compare.
    """
    from matplotlib import colormaps

    std = F.interpolate(variance.sqrt()[None, None].float(), size=size, mode="bilinear")[0, 0]
    return torch.from_numpy(colormaps[COLOURS](std.clamp(0, 1).cpu().numpy())[..., :3]).permute(2, 0, 1).float()
