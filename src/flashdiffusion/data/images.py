"""One image: bytes to float RGB in [0, 1] and back."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from flashdiffusion.data.files import atomic_path
from flashdiffusion.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_FILTERS = Lock()  # warning filters are global, and images are decoded in threads


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode an image to 8-bit RGB; grey and palette images are converted, alpha is laid on white.

    The mode it had is in the result's `info["mode"]`.

    Raises:
        InputError: truncated, not an image, or larger than Pillow's decompression-bomb limit.
    """
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data))
        if image.mode.startswith(("I", "F")):  # I;16, I;16B and the like
            raise InputError(f"{name}: {image.mode} image; expected 8-bit grey, RGB or RGBA")
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise InputError(f"{name}: too large ({error}); expected at most {limit} megapixels") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: damaged or truncated image ({error})") from error
    mode = image.mode
    image = ImageOps.exif_transpose(image)
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    rgb = image.convert("RGB")
    rgb.info["mode"] = mode
    return rgb


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """Centre-crop to the aspect ratio of height x width and resize to it with the Lanczos filter."""
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """Centre-crop to a square and resize it to (size, size) with the Lanczos filter."""
    return fit(image, size, size)


def to_uint8_tensor(image: Image.Image) -> Tensor:
    """RGB image to a uint8 tensor (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as 8-bit RGB (see `decode_image`).

    Raises:
        InputError: the file is missing, unreadable or no image.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return decode_image(data, str(path))


def to_tensor(image: Image.Image) -> Tensor:
    """RGB image to float32 (3, H, W) in [0, 1]."""
    return to_uint8_tensor(image).float() / 255


def load_image(path: str | Path, size: int | None = None) -> Tensor:
    """Read an image file as float32 (3, H, W) in [0, 1], fitted to a square if `size` is given.

    Raises:
        InputError: the file is missing, unreadable or no image.
    """
    image = read_image(path)
    return to_tensor(image if size is None else fit_square(image, size))


def to_pil(image: Tensor) -> Image.Image:
    """Float RGB (3, H, W) in [0, 1] (values outside are clipped) to an 8-bit image."""
    array = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)


def encode_image(image: Tensor) -> bytes:
    """Float RGB (3, H, W) in [0, 1] as the bytes of a PNG file."""
    stream = io.BytesIO()
    to_pil(image).save(stream, "PNG")
    return stream.getvalue()


def save_image(image: Tensor, path: str | Path) -> None:
    """Write float RGB (3, H, W) in [0, 1] as an image, atomically."""
    with atomic_path(path) as temporary:
        to_pil(image).save(temporary)


def save_grid(rows: Sequence[Tensor], path: str | Path, scale: int = 1) -> None:
    """Write batches (B, 3, H, W) in [0, 1] as the rows of one image, atomically."""
    grid = torch.cat([torch.cat(list(row.detach().float().cpu()), dim=2) for row in rows], dim=1)
    image = to_pil(grid)
    if scale != 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    with atomic_path(path) as temporary:
        image.save(temporary)
