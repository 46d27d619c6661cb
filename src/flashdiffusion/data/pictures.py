"""Pictures as they come and go: any size, grey or colour, 8 or 16 bits, with alpha and colour profile."""

import io
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from PIL.PngImagePlugin import putchunk
from torch import Tensor

from flashdiffusion.data.decoding import decode_as_stored, upright
from flashdiffusion.data.files import read_bytes
from flashdiffusion.data.images import LARGEST_FILE, fit, to_pil, to_tensor
from flashdiffusion.data.stored import stored_values, turned
from flashdiffusion.errors import InputError

_PNG_HEADER = 33  # bytes of a PNG's signature and first chunk
_SPACES = {True: b"GRAY", False: b"RGB "}  # in a colour profile, of grey and of colour


@dataclass(frozen=True, eq=False)
class Kind:
    """What a picture is beside its values, so that what is made of it is written alike.

    grey: whether it has one channel beside alpha. bits: of a channel, 8 or 16. alpha: opacity, float32 (1, H, W) in
    [0, 1]; None if there is none. profile: the ICC profile of its colours; None for sRGB.
    """

    grey: bool = False
    bits: int = 8
    alpha: Tensor | None = None
    profile: bytes | None = None


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture: values float32 (3, H, W) in [0, 1] as they are stored, in the colours of its own profile.

    Colours are not multiplied with alpha. notes: what the user should be told of its file. quantisation: steps of luma
    that a JPEG file was rounded to, 64 in grey levels of 255; None if it was not, or its pixels were resized since.
    """

    values: Tensor
    kind: Kind = field(default_factory=Kind)
    notes: tuple[str, ...] = ()
    quantisation: tuple[int, ...] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.values.shape[1], self.values.shape[2]

    def opaque(self) -> "Picture":
        """Leave alpha out, as where it says which pixels were lost: a result is to show them."""
        return replace(self, kind=replace(self.kind, alpha=None))

    def cropped(self, height: int, width: int) -> "Picture":
        """Keep the first rows and columns."""
        alpha = None if self.kind.alpha is None else self.kind.alpha[:, :height, :width]
        return replace(self, values=self.values[:, :height, :width], kind=replace(self.kind, alpha=alpha))

    def fitted(self, height: int, width: int) -> "Picture":
        """Crop to the centre and resize, as `images.fit` does."""
        if self.kind.bits == 8:
            values = to_tensor(fit(to_pil(self.values), height, width))
        else:
            values = torch.cat([_fitted(plane, height, width) for plane in self.values])
        alpha = None if self.kind.alpha is None else _fitted(self.kind.alpha[0], height, width)
        return replace(self, values=values, kind=replace(self.kind, alpha=alpha), quantisation=None)


def decode_picture(data: bytes, name: str) -> Picture:
    """Decode an image file; raises InputError as `decoding.decode_image` does."""
    notes: list[str] = []
    image = decode_as_stored(data, name, notes)
    turn, tables = upright(image, notes), getattr(image, "quantization", None)
    picture = _picture(image, turned(stored_values(image, data, name, notes), turn), notes)
    return replace(picture, quantisation=tuple(tables[0]) if tables else None)


def from_pillow(image: Image.Image) -> Picture:
    """Take a Pillow image for a picture, not turned; raises InputError for a mode that has no colours."""
    if image.mode in {"I", "F"}:
        raise InputError(f"image of mode {image.mode}, of unknown range; expected 8 bits, or an array in [0, 1]")
    own, notes = image.copy(), list[str]()
    return _picture(own, stored_values(own, b"", "image", notes), notes)


def _picture(image: Image.Image, stored: np.ndarray, notes: list[str]) -> Picture:
    levels = np.iinfo(stored.dtype).max
    values = torch.from_numpy(np.ascontiguousarray(stored.transpose(2, 0, 1), dtype=np.float32)) / levels
    grey, alpha = len(values) < 3, values[-1:].clone() if len(values) in {2, 4} else None
    colours = values[:1].expand(3, -1, -1).contiguous() if grey else values[:3]
    kind = Kind(grey, 16 if levels > 255 else 8, alpha, _profile(image, grey, notes))
    return Picture(colours, kind, tuple(notes))


def read_picture(path: str | Path) -> Picture:
    """Read an image file; raises InputError if it is no plain file, unreadable or no image."""
    return decode_picture(read_bytes(path, LARGEST_FILE), str(path))


def encode_picture(image: Tensor, kind: Kind) -> bytes:
    """Encode float RGB (3, H, W) or grey (1, H, W) in [0, 1] as a PNG of this kind; values are clipped.

    Alpha of another size is resized.

    Raises:
        InputError: 16 bits with colour or alpha, and imagecodecs is not installed.
    """
    planes = image.detach().float().cpu()
    planes = planes.mean(dim=0, keepdim=True) if kind.grey else planes
    if kind.alpha is not None:
        alpha = kind.alpha
        if alpha.shape[1:] != planes.shape[1:]:
            alpha = F.interpolate(alpha[None], size=planes.shape[1:], mode="bilinear", antialias=True)[0]
        planes = torch.cat([planes, alpha.to(planes)])
    levels = 2**kind.bits - 1
    array = (planes.clamp(0, 1) * levels).round().numpy().astype(np.uint16 if kind.bits == 16 else np.uint8)
    array = np.ascontiguousarray(array.transpose(1, 2, 0))
    return _encode(array[..., 0] if array.shape[2] == 1 else array, kind.profile)


def _encode(array: np.ndarray, profile: bytes | None) -> bytes:
    if array.dtype == np.uint8 or array.ndim == 2:
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "PNG", icc_profile=profile)
        return stream.getvalue()
    try:
        import imagecodecs
    except ImportError as error:
        raise InputError("PNG of 16 bits a channel needs imagecodecs; pip install imagecodecs") from error
    data = bytes(imagecodecs.png_encode(array))
    if profile is None:
        return data
    chunk: Any = io.BytesIO()
    putchunk(chunk, b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))
    return data[:_PNG_HEADER] + chunk.getvalue() + data[_PNG_HEADER:]


def _profile(image: Image.Image, grey: bool, notes: list[str]) -> bytes | None:
    """Give the colour profile, if it is one of such colours; else say that it is left out."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    if profile[36:40] == b"acsp" and profile[16:20] == _SPACES[grey]:
        return bytes(profile)
    notes.append(f"has a colour profile that is none of {'grey' if grey else 'RGB'}; it is left out")
    return None


def _fitted(plane: Tensor, height: int, width: int) -> Tensor:
    """Fit one plane (H, W), to (1, height, width)."""
    image = ImageOps.fit(Image.fromarray(plane.numpy()), (width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).clamp(0, 1)[None]
