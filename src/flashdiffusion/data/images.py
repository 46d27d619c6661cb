"""One image: bytes to float RGB in [0, 1] and back."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from flashdiffusion.data.decoding import decode_image
from flashdiffusion.data.files import atomic_path, read_bytes

LARGEST_AREA = 2**26  # pixels of an image that is resized: 0.8 GB as floats
LARGEST_FILE = 2**30  # bytes; an image within Pillow's limit takes less


def fit(image: Image.Image, height: int, width: int | None = None) -> Image.Image:
    """Centre-crop to the aspect ratio of height x width (a square without it), and resize with the Lanczos filter."""
    return ImageOps.fit(image, (width or height, height), Image.Resampling.LANCZOS)


def read_image(path: str | Path) -> Image.Image:
    """Read an image file, see `decode_image`; raises InputError if it is no plain file, unreadable or no image."""
    return decode_image(read_bytes(path, LARGEST_FILE), str(path))


def to_tensor(image: Image.Image) -> Tensor:
    """Convert a decoded image to float32 (3, H, W) in [0, 1]."""
    values = torch.from_numpy(np.array(image)).float() / 255
    if values.ndim == 2:  # mode F
        return values.clamp(0, 1).expand(3, -1, -1).contiguous()
    return values.permute(2, 0, 1).contiguous()


def load_image(path: str | Path, size: int | None = None) -> Tensor:
    """Read an image as float32 (3, H, W) in [0, 1], fitted to a square if `size` is given; raises as `read_image`."""
    image = read_image(path)
    return to_tensor(image if size is None else fit(image, size))


def to_pil(image: Tensor) -> Image.Image:
    """Convert float RGB (3, H, W) or grey (1, H, W) to an 8-bit image; values are clipped to [0, 1]."""
    array = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def encode_image(image: Tensor, about: str | None = None) -> bytes:
    """Encode float RGB (3, H, W) or grey (1, H, W) in [0, 1] as PNG; `about` is its text Description."""
    stream, text = io.BytesIO(), PngInfo()
    if about is not None:
        text.add_itxt("Description", about)
    to_pil(image).save(stream, "PNG", pnginfo=text)
    return stream.getvalue()


def save_image(image: Tensor, path: str | Path) -> None:
    """Write float RGB (3, H, W) in [0, 1] as an image, atomically."""
    with atomic_path(path) as temporary:
        to_pil(image).save(temporary)


def save_grid(rows: Sequence[Tensor], path: str | Path) -> None:
    """Write batches (B, 3, H, W) in [0, 1] as the rows of one image, atomically."""
    save_image(torch.cat([torch.cat(list(row.detach().float().cpu()), dim=2) for row in rows], dim=1), path)
