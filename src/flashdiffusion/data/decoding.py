"""Decodes image files: raster formats alone, whatever their metadata holds."""

import io
import os
import warnings
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from flashdiffusion.data.metadata import stripped
from flashdiffusion.errors import AreaError, InputError, blamed_on, brief

# Nothing that runs a program (EPS) or fetches other files; TGA last, since it has no signature.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "QOI", "TGA")
SUFFIXES = frozenset(
    f".{name}"
    for names in (
        "png apng jpg jpeg jpe jfif webp bmp dib tif tiff gif avif avifs",
        "jp2 j2k jpc jpf jpx j2c ppm pgm pbm pnm qoi tga icb vda vst",
    )
    for name in names.split()
)
_FILTERS = Lock()  # warning filters are global, and images are decoded in threads
LIMIT = "FLASHDIFFUSION_MAX_MEGAPIXELS"  # environment variable that raises or lowers Pillow's limit
DEEP = "deep"  # of an image's `info`: its file holds 16 bits a channel, of which Pillow has the upper 8
STORED = "stored_turn"  # in the info of such a TIFF: how its values are to be turned
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPPING = {  # width and height
    *(Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270),
}
_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode an image to 8-bit sRGB, as networks are trained on; 16-bit grey becomes mode F with values in [0, 255].

    Colour profiles are applied, the camera's rotation too; alpha is laid on white; of several frames the first is
    taken. In the result's `info`, "mode" is the mode of the file, and "notes" holds what the user should be told.
    Metadata that cannot be read costs the image its metadata, nothing else. `pictures.decode_picture` keeps more.

    Raises:
        InputError: truncated, not an image of the formats, deeper than can be read, or larger than Pillow's
            decompression-bomb limit, which the environment variable `LIMIT` replaces.
    """
    notes: list[str] = []
    image = decode_as_stored(data, name, notes)
    turn = upright(image, notes)
    if DEEP in image.info:
        notes.append("has 16 bits; 8 of them are read")
    with blamed_on(f"{name}: cannot convert mode {image.mode} to RGB", InputError):
        pixels = _pixels(image, notes)
    if turn is not None:
        pixels = pixels.transpose(turn)
    pixels.info = {"mode": image.mode, "notes": notes}
    return pixels


def size_of(path: str | Path) -> tuple[int, int]:
    """Give the height and width of an image file, upright, without its pixels; raises InputError if it is none."""
    with blamed_on(path, InputError), _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=FORMATS) as image:
            # Pillow turns the size of a TIFF file itself.
            turned = image.format != "TIFF" and _turn(image, []) in SWAPPING
            width, height = image.size[::-1] if turned else image.size
    return height, width


def upright(image: Image.Image, notes: list[str]) -> Image.Transpose | None:
    """Say how an image is to be turned, by its EXIF; `notes` gains what was left out, frames after the first too."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        turn = _turn(image, notes)
        if (frames := _frames(image)) > 1:
            notes.append(f"has {frames} frames; the first is taken")
    return turn


def decode_as_stored(data: bytes, name: str, notes: list[str]) -> Image.Image:
    """Decode an image in its own mode and values; `notes` gains what was left out. Raises as `decode_image`."""
    try:
        return _loaded(data, name)
    except InputError as error:
        image = _loaded_bare(data, name, error)
        notes.append("has metadata that cannot be read; it is left out")
        return image


def _loaded(data: bytes, name: str, bare: bool = False) -> Image.Image:
    with blamed_on(f"{name}: damaged or truncated image", InputError):
        try:
            with _FILTERS, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                _set_limit()
                image = Image.open(io.BytesIO(data), formats=FORMATS)
            deep = _is_deep(image, name)
            stored = _turn(image, []) if deep and image.format == "TIFF" else None  # Pillow turns it as it is loaded
            if bare:
                vars(image)["load_end"] = lambda: None  # where Pillow reads what follows the pixels
            image.load()
            if bare:
                vars(image)["_size"] = image.im.size
            if deep:
                image.info[DEEP], image.info[STORED] = deep, stored
            return image
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
            raise AreaError(
                f"{name}: too large ({error}); expected at most {limit} megapixels; to take more, set the environment "
                f"variable {LIMIT}"
            ) from error
        except UnidentifiedImageError as error:
            raise InputError(f"{name}: not an image that can be read; expected one of {', '.join(FORMATS)}") from error


def _loaded_bare(data: bytes, name: str, reason: InputError) -> Image.Image:
    """Decode an image without its metadata; raise `reason` if that does not help."""
    pixels_alone = stripped(data)
    if pixels_alone == data and data[:2] not in {b"II", b"MM"}:  # TIFF: its metadata is read after the pixels
        raise reason
    try:
        return _loaded(pixels_alone, name, bare=True)
    except InputError:
        raise reason from None


def _set_limit() -> None:
    """Replace Pillow's limit if the environment says so."""
    text = os.environ.get(LIMIT)
    if text is None:
        return
    try:
        limit = int(float(text) * 1_000_000)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise InputError(f"{LIMIT} is {text!r}; expected a number of megapixels, such as 200")
    Image.MAX_IMAGE_PIXELS = limit


def _is_deep(image: Image.Image, name: str) -> str:
    """Tell whether Pillow cuts colours of 16 bits to 8, by its name of how they are stored, "" if it does not.

    Raises:
        InputError: it would in another format than PNG and TIFF, or the range of the values is unknown.
    """
    raw = [
        part
        for tile in getattr(image, "tile", [])
        for part in (tile.args if isinstance(tile.args, tuple) else (tile.args,))
    ]
    sixteen = image.mode.startswith("I;16") and "I;12" not in raw
    cut = any((isinstance(part, str) and ";16" in part) or (part == 65535) for part in raw)
    if sixteen or (image.mode == "I" and image.format == "PPM"):
        return ""
    if image.mode.startswith(("I", "F")):
        raise InputError(
            f"{name}: {image.mode} image, whose range is not known; expected 8 or 16 bits a channel, or an array "
            "(.npy) of values in [0, 1]"
        )
    if cut and image.format not in {"PNG", "TIFF"}:
        raise InputError(f"{name}: {image.format} of 16 bits; expected 8 bits a channel, or 16 as PNG or TIFF")
    return next(part for part in raw if isinstance(part, str) and ";16" in part) if cut else ""


def _turn(image: Image.Image, notes: list[str]) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception as error:  # of a damaged file Pillow raises anything
        notes.append(f"has EXIF that cannot be read ({brief(error, 80)}); it is left out")
        return None


def _pixels(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode.startswith("I"):
        notes.append("has 16 bits; images are written with 8")
        return Image.fromarray(np.asarray(image).astype(np.float32) * (255 / 65535))
    ground = " on white" if image.mode in _ALPHA else ""
    if image.mode not in {"RGB", "L"}:
        notes.append(f"has mode {image.mode}; converted to {'grey' if image.mode in {'1', 'LA'} else 'RGB'}{ground}")
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode in _ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        image = rgba.convert("L" if image.mode in {"L", "LA", "La", "1"} else "RGB")
    image = in_srgb(image, profile, notes) if profile else image.convert("RGB")
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a damaged frame after the first is not looked at
        return 1


def in_srgb(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    """Convert the colours to sRGB; if the profile cannot be used, keep them and add a note."""
    if image.mode not in {"L", "CMYK"}:
        image = image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        assert converted is not None
        return converted
    except Exception as error:  # of a damaged file Pillow raises anything
        notes.append(f"has a colour profile that cannot be applied ({brief(error, 80)}); its colours are taken as sRGB")
        return image.convert("RGB")
