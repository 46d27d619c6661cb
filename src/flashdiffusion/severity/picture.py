"""A severity map as a picture."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.data import encode_image

COLOURS = "viridis"
LEAST = 0.02  # standard deviation
SCALE = (
    "Standard deviation of the severity encoder's estimate at each place, in units of the model's latents: "
    f"logarithmic, from {LEAST} or less (dark blue) to 1 or more (yellow)"
)


def map_picture(variance: Tensor, size: tuple[int, int]) -> Tensor:
    """Show a variance map (h, w) as RGB (3, H, W) in [0, 1], for an image of `size` (H, W).

    A place of the map covers 2**n x 2**n pixels; the last row and column may reach beyond the image.

    The colours stand for the standard deviation in scaled latent units, on a logarithmic scale from `LEAST` or less
    (dark blue, hardly anything is lost) to 1 or more (yellow: with standardised latents, nothing is known). So pictures
    compare, also those of a model of photographs, whose errors are small beside the brightness of an image.
    """
    pixels = max(2 ** max(0, math.ceil(math.log2(side / n))) for side, n in zip(size, variance.shape, strict=True))
    whole = [n * pixels for n in variance.shape]
    std = F.interpolate(variance.sqrt()[None, None].float(), size=whole, mode="bilinear")[0, 0, : size[0], : size[1]]
    return coloured(1 - std.clamp(min=LEAST).log() / math.log(LEAST))


def encoded_map(variance: Tensor, size: tuple[int, int]) -> bytes:
    """Encode `map_picture` as PNG, whose text Description says what the colours stand for."""
    return encode_image(map_picture(variance, size), SCALE)


def coloured(values: Tensor) -> Tensor:
    """Colours (3, H, W) of values (H, W) from 0 (dark blue) to 1 (yellow)."""
    from matplotlib import colormaps

    return torch.from_numpy(colormaps[COLOURS](values.clamp(0, 1).cpu().numpy())[..., :3]).permute(2, 0, 1).float()
