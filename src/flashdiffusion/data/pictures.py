"""One picture: bytes to float RGB in [0, 1] and back."""

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
_FILTERS = Lock()  # warning filters are global, and pictures are decoded in threads


def decode_picture(data: bytes, name: str) -> Image.Image:
    """Decode a picture to 8-bit RGB; grey and palette pictures are converted, alpha is laid on white.

    The mode it had is in the result's `info["mode"]`.

    Raises:
        InputError: truncated, not a picture, or larger than Pillow's decompression-bomb limit.
    """
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture: Image.Image = Image.open(io.BytesIO(data))
        if picture.mode.startswith(("I", "F")):  # I;16, I;16B and the like
            raise InputError(f"{name}: {picture.mode} picture; expected 8-bit grey, RGB or RGBA")
        picture.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise InputError(f"{name}: too large ({error}); expected at most {limit} megapixels") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not a picture that Pillow can read") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: damaged or truncated picture ({error})") from error
    mode = picture.mode
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    rgb = picture.convert("RGB")
    rgb.info["mode"] = mode
    return rgb


def fit(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Centre-crop to the aspect ratio of height x width and resize to it with the Lanczos filter."""
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def fit_square(picture: Image.Image, size: int) -> Image.Image:
    """Centre-crop to a square and resize it to (size, size) with the Lanczos filter."""
    return fit(picture, size, size)


def to_uint8_tensor(picture: Image.Image) -> Tensor:
    """RGB picture to a uint8 tensor (3, H, W)."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def read_picture(path: str | Path) -> Image.Image:
    """Read a picture file as 8-bit RGB (see `decode_picture`).

    Raises:
        InputError: the file is missing, unreadable or no picture.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return decode_picture(data, str(path))


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB picture to float32 (3, H, W) in [0, 1]."""
    return to_uint8_tensor(picture).float() / 255


def load_picture(path: str | Path, size: int | None = None) -> Tensor:
    """Read a picture file as float32 (3, H, W) in [0, 1], fitted to a square if `size` is given.

    Raises:
        InputError: the file is missing, unreadable or no picture.
    """
    picture = read_picture(path)
    return to_tensor(picture if size is None else fit_square(picture, size))


def to_pil(image: Tensor) -> Image.Image:
    """Float RGB (3, H, W) in [0, 1] (values outside are clipped) to an 8-bit picture."""
    array = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)


def encode_picture(image: Tensor) -> bytes:
    """Float RGB (3, H, W) in [0, 1] as the bytes of a PNG file."""
    stream = io.BytesIO()
    to_pil(image).save(stream, "PNG")
    return stream.getvalue()


def save_picture(image: Tensor, path: str | Path) -> None:
    """Write float RGB (3, H, W) in [0, 1] as a picture, atomically."""
    with atomic_path(path) as temporary:
        to_pil(image).save(temporary)


def save_grid(rows: Sequence[Tensor], path: str | Path, scale: int = 1) -> None:
    """Write batches (B, 3, H, W) in [0, 1] as the rows of one picture, atomically."""
    grid = torch.cat([torch.cat(list(row.detach().float().cpu()), dim=2) for row in rows], dim=1)
    picture = to_pil(grid)
    if scale != 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    with atomic_path(path) as temporary:
        picture.save(temporary)
