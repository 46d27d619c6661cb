"""Images padded by reflection to a size that networks take, and cropped again."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class Padding:
    """Between images of their own size and those that networks see, which go on below and to the right.

    size: of the images. padded: what networks see, each side at least as long.
    """

    size: Size
    padded: Size

    def pad(self, x: Tensor) -> Tensor:
        """Pad images (..., H, W) by reflection; those that are padded stay as they are."""
        return reflected(x, self.padded)

    def crop(self, x: Tensor) -> Tensor:
        """Crop padded images (..., H', W') to their own size; those of their own size stay as they are."""
        return x[..., : self.size[0], : self.size[1]]

    def crop_transposed(self, x: Tensor) -> Tensor:
        """Give the transpose of `crop`: images (..., H, W) with zeros beyond them."""
        return F.pad(x, (0, self.padded[1] - x.shape[-1], 0, self.padded[0] - x.shape[-2]))

    def crop_map(self, values: Tensor) -> Tensor:
        """Crop a map (..., h, w), a number for each place of a latent, to the places that show something of images."""
        height, width = (
            -(-side // (whole // places))
            for side, whole, places in zip(self.size, self.padded, values.shape[-2:], strict=True)
        )
        return values[..., :height, :width]


def reflected(x: Tensor, size: Size) -> Tensor:
    """Continue images (..., H, W) by reflection, as often as it takes, to `size`, which is at least theirs."""
    for axis, side in zip((-2, -1), size, strict=True):
        if (own := x.shape[axis]) < side:
            place = torch.arange(side, device=x.device) % max(1, 2 * (own - 1))
            x = x.index_select(axis, torch.minimum(place, 2 * (own - 1) - place))
    return x
