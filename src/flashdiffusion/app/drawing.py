"""What was drawn over a picture, as the mask of the parts that are missing."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flashdiffusion.app.limits import PREVIEW
from flashdiffusion.data.decoding import size_of
from flashdiffusion.errors import InputError, sized

DRAWN = 4 * PREVIEW**2  # pixels of a drawing, on a screen of fine ones
DRAWINGS = ("PNG", "WEBP")  # how it is sent
LAYERS = 16  # as which it is sent at most: the editor sends one anew as it is drawn


def write_mask(drawn: Sequence[str | bytes], picture: Path, target: Path) -> None:
    """Write what was drawn over a picture as its mask, of its own size: white where nothing was.

    Args:
        drawn: layers as image files, or their content; the page sends some of one drawing.

    Raises:
        InputError: nothing was drawn, or what was sent is no such drawing.
    """
    height, width = size_of(picture)
    lost = np.zeros((height, width), bool)
    if len(drawn) > LAYERS:
        raise InputError(f"{len(drawn)} layers are drawn on the picture; expected at most {LAYERS}")
    for layer in drawn:
        alpha = _drawing(layer).getchannel("A")
        lost |= np.asarray(alpha.resize((width, height), Image.Resampling.BILINEAR)) > 0
    if not lost.any():
        raise InputError("nothing is drawn on the picture; draw over the parts that are missing, then restore")
    Image.fromarray(np.where(lost, 0, 255).astype(np.uint8)).save(target)


def _drawing(layer: str | bytes) -> Image.Image:
    """A layer's picture, of RGBA; its pixels are read if they are not too many."""
    try:
        with Image.open(io.BytesIO(layer) if isinstance(layer, bytes) else layer, formats=DRAWINGS) as image:
            if image.width * image.height > DRAWN:
                raise InputError(f"the drawing has {sized(*image.size[::-1])}; expected at most {DRAWN} pixels")
            return image.convert("RGBA")
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"the drawing cannot be read; expected one of {', '.join(DRAWINGS)}") from error
