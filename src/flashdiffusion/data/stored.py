"""Values of a picture as they are stored: 8 or 16 bits, with alpha, upright."""

import numpy as np
from PIL import Image

from flashdiffusion.data.decoding import DEEP, STORED, SWAPPING, in_srgb
from flashdiffusion.errors import InputError, blamed_on

_STRAIGHT = {"L", "LA", "RGB", "RGBA"}  # modes whose values are taken as they are
_SAME_COLOURS = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA", "P": "RGB", "RGBX": "RGB"}  # what others become
_TURNS = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda a: a[:, ::-1],
    Image.Transpose.ROTATE_180: lambda a: a[::-1, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda a: a[::-1],
    Image.Transpose.TRANSPOSE: lambda a: a.swapaxes(0, 1),
    Image.Transpose.ROTATE_270: lambda a: np.rot90(a, 3),
    Image.Transpose.TRANSVERSE: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    Image.Transpose.ROTATE_90: lambda a: np.rot90(a, 1),
}


def stored_values(image: Image.Image, data: bytes, name: str, notes: list[str]) -> np.ndarray:
    """Give the values of a decoded image (H, W, C), uint8 or uint16, C = 1 or 3 and one more with alpha.

    Modes without a PNG of their own, such as CMYK, become sRGB by their colour profile, and `notes` says so.

    Args:
        data: its file, of which those of 16 bits are read again.

    Raises:
        InputError: they cannot be read or converted.
    """
    if DEEP in image.info:
        return _deep(image, data, name)
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)[..., None]
    with blamed_on(f"{name}: cannot convert mode {image.mode} to RGB", InputError):
        values = np.asarray(_plain(image, notes))
    return values[..., None] if values.ndim == 2 else values


def turned(values: np.ndarray, turn: Image.Transpose | None) -> np.ndarray:
    """Turn values (H, W, C) as `Image.transpose` turns an image."""
    return values if turn is None else _TURNS[turn](values)


def _plain(image: Image.Image, notes: list[str]) -> Image.Image:
    """Give an image in one of the modes that are taken as they are."""
    mode = _SAME_COLOURS.get(image.mode, image.mode)
    if "transparency" in image.info and mode in {"L", "RGB"}:
        mode += "A"
    if mode in _STRAIGHT:
        return image if mode == image.mode else image.convert(mode)
    notes.append(f"has mode {image.mode}; converted to RGB")
    profile = image.info.pop("icc_profile", None)  # not that of the result
    return in_srgb(image, profile, notes) if profile else image.convert("RGB")


def _deep(image: Image.Image, data: bytes, name: str) -> np.ndarray:
    """Read a PNG or TIFF of 16 bits a channel, as Pillow does not."""
    try:
        import imagecodecs
    except ImportError as error:
        raise InputError(f"{name}: 16 bits a channel need imagecodecs; pip install imagecodecs") from error
    if image.mode not in {"RGB", "RGBA", "LA"}:
        raise InputError(f"{name}: 16 bits of {image.mode}; expected them of RGB, RGBA or grey")
    decode = imagecodecs.png_decode if image.format == "PNG" else imagecodecs.tiff_decode
    with blamed_on(f"{name}: damaged image of 16 bits a channel", InputError):
        values = np.asarray(decode(data))
    turn = image.info[STORED]
    size = image.size[::-1] if turn not in SWAPPING else image.size
    if values.ndim == 3 and values.shape[0] in {3, 4} and values.shape[1:] == size:
        values = np.moveaxis(values, 0, 2)  # a plane for each channel
    if values.ndim == 3 and values.shape[:2] == size:
        values = turned(values, turn)
    if values.dtype != np.uint16 or values.ndim != 3 or values.shape[:2] != image.size[::-1]:
        raise InputError(f"{name}: values {values.dtype} {values.shape}; expected 16 bits a channel, in RGB or RGBA")
    if image.mode == "RGB":
        return values[..., :3]  # and not what else a TIFF holds
    return _unassociated(values) if image.info[DEEP].startswith("RGBa") else values


def _unassociated(values: np.ndarray) -> np.ndarray:
    """Divide colours by the alpha that they were multiplied with."""
    alpha = values[..., 3:].astype(np.float32) / 65535
    colours = (values[..., :3] / np.maximum(alpha, 1 / 65535)).round().clip(0, 65535)
    return np.concatenate([colours.astype(np.uint16), values[..., 3:]], axis=2)
