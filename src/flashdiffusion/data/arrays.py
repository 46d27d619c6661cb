"""Measurements as other programs write them: NumPy's .npy and .npz, PyTorch's .pt, MATLAB's .mat.

Sizes are checked before anything is allocated, and nothing in a file is executed.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from flashdiffusion.data.files import read_bytes
from flashdiffusion.data.images import LARGEST_AREA
from flashdiffusion.errors import InputError, blamed_on, brief

LARGEST = 2**30  # bytes of a file, and of what is packed in it
TYPES = {torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64}
_KNOWN = "uint8 from 0 to 255, uint16 from 0 to 65535, or floats from 0 to 1"
_NAMES = ("y", "measurement")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_FLOATS = {"double", "single"}  # MATLAB's
_NUMBERS = _FLOATS | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def read_array(path: str | Path) -> Tensor:
    """Read a measurement as float32 (..., H, W), channels first; see `read_rounded`."""
    return read_rounded(path)[0]


def read_rounded(path: str | Path) -> tuple[Tensor, int | None]:
    """Read a measurement as float32 (..., H, W), and the bits of its values, None for floats.

    Of several arrays, the one named `y` or `measurement` is taken.

    Raises:
        InputError: missing, damaged, too large, without an array to choose, or of another type than uint8, uint16
            (scaled to [0, 1]) and floats.
    """
    path = Path(path)
    data = read_bytes(path, LARGEST)
    try:
        array = _READERS[path.suffix.lower()](data, path)
        _expect_size(tuple(array.shape), path)
        if isinstance(array, Tensor):
            if array.layout != torch.strided or array.device.type != "cpu" or array.dtype not in TYPES:
                kind = f"{array.layout} tensor of {array.dtype}"
                raise InputError(f"{path} holds a {kind}; expected a dense one of {_KNOWN}")
            array = (array.float() if array.is_floating_point() else array).detach().numpy()
        return from_numpy(array), None if array.dtype.kind == "f" else 8 * array.dtype.itemsize
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except Exception as error:  # of a damaged file the readers raise anything, RecursionError among it
        raise InputError(f"{path} is damaged, or holds no measurement: {brief(error)}") from error


def shape_of(path: str | Path) -> tuple[int, ...]:
    """Give the shape of the array that `read_array` would read, as it is stored; raises InputError if there is none."""
    path = Path(path)
    data = read_bytes(path, LARGEST)
    with blamed_on(path, InputError):
        return tuple(_SHAPES[path.suffix.lower()](data, path))


def from_numpy(array: np.ndarray) -> Tensor:
    """Convert uint8, uint16 or floats to float32 in [0, 1], channels first; raises InputError for other types."""
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        array = array.astype(np.float32) / np.iinfo(array.dtype).max
    if array.dtype.kind != "f":
        raise InputError(f"an array of {array.dtype}; expected {_KNOWN}")
    if array.ndim in {3, 4} and array.shape[-1] in {1, 3} and array.shape[-3] not in {1, 3}:
        array = np.moveaxis(array, -1, -3)
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _expect_size(shape: tuple[int, ...], path: Path) -> None:
    if not 0 < math.prod(shape) <= 3 * LARGEST_AREA:
        raise InputError(f"{path} holds an array of shape {shape}; expected 1 to {3 * LARGEST_AREA} values")


def _choose(names: Iterable[str], path: Path) -> str:
    """Choose `y` or `measurement`, or the only array there is; raises InputError if there is no such choice."""
    names = list(names)
    for name in (*_NAMES, *(names if len(names) == 1 else ())):
        if name in names:
            return name
    known = f"the arrays {', '.join(sorted(names)[:10])}" if names else "no array"
    raise InputError(f"{path} holds {known}; expected one alone, or one named y or measurement")


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    return _HEADERS[np.lib.format.read_magic(stream)](stream)


def _npy(stream: IO[bytes], path: Path) -> np.ndarray:
    shape, fortran, dtype = _npy_header(stream)
    _expect_size(shape, path)
    data = stream.read(dtype.itemsize * math.prod(shape))
    flat = np.frombuffer(data, dtype, math.prod(shape))  # no more than there is, and no objects
    return flat.reshape(shape, order="F" if fortran else "C")


def _npz(data: bytes, path: Path) -> np.ndarray:
    with _unpacked(data, path) as packed, packed.open(_npz_member(packed, path)) as member:
        return _npy(member, path)


def _npz_member(packed: zipfile.ZipFile, path: Path) -> str:
    return _choose((name.removesuffix(".npy") for name in packed.namelist() if name.endswith(".npy")), path) + ".npy"


def _npz_shape(data: bytes, path: Path) -> tuple[int, ...]:
    with _unpacked(data, path) as packed, packed.open(_npz_member(packed, path)) as member:
        return _npy_header(member)[0]


def _pt(data: bytes, path: Path, device: str = "cpu") -> Tensor:
    """Load the tensor; on the meta device nothing but its shape."""
    with _unpacked(data, path):
        held = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    if isinstance(held, dict):
        held = held[_choose((name for name, value in held.items() if isinstance(value, Tensor)), path)]
    if not isinstance(held, Tensor):
        raise InputError(f"{path} holds a {type(held).__name__}; expected a tensor, or tensors by name")
    return held


def _unpacked(data: bytes, path: Path) -> zipfile.ZipFile:
    """Open a zip archive whose unpacked size is within the limit."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise InputError(f"{path} is no archive; expected a file of numpy.savez, or of today's torch.save")
    packed = zipfile.ZipFile(io.BytesIO(data))
    if (size := sum(part.file_size for part in packed.infolist())) > LARGEST:
        raise InputError(f"{path} unpacks to {size} bytes; expected at most {LARGEST}")
    return packed


def _pt_shape(data: bytes, path: Path) -> tuple[int, ...]:
    held = _pt(data, path, "meta")
    return tuple(held.shape) if held.is_contiguous() else (held.untyped_storage().nbytes() // held.itemsize,)


def _mat_shape(data: bytes, path: Path) -> tuple[int, ...]:
    return _mat_array(data, path)[1]


def _mat_array(data: bytes, path: Path) -> tuple[str, tuple[int, ...], str]:
    """Name, shape and class of the array to take."""
    from scipy.io import whosmat
    from scipy.io.matlab import matfile_version

    _expect_unpackable(data, path)
    if matfile_version(io.BytesIO(data))[0] == 2:
        raise InputError(
            f"{path} is of MATLAB 7.3, which is HDF5; in MATLAB, save(FILE, 'y', '-v7') writes one that can be read"
        )
    there = {name: (shape, kind) for name, shape, kind in whosmat(io.BytesIO(data)) if kind in _NUMBERS}
    name = _choose(there, path)
    return name, *there[name]


def _mat(data: bytes, path: Path) -> np.ndarray:
    from scipy.io import loadmat

    name, shape, kind = _mat_array(data, path)
    _expect_size(shape, path)
    array: np.ndarray = loadmat(io.BytesIO(data), variable_names=[name])[name]
    # MATLAB writes floats that happen to be whole numbers as integers.
    return array.astype(np.float64) if kind in _FLOATS and array.dtype.kind in "iu" else array


def _expect_unpackable(data: bytes, path: Path) -> None:
    """Refuse a .mat file in which an element unpacks to more than the limit."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    at = 128 if order else len(data)  # version 4 has no such mark, and packs nothing
    while at + 8 <= len(data):
        kind, size = np.frombuffer(data, f"{order}u4", 2, at).tolist()
        unpacker, rest, total = zlib.decompressobj(), data[at + 8 : at + 8 + size] if kind == 15 else b"", 0
        while rest:
            total += len(unpacker.decompress(rest, 2**24))
            rest = unpacker.unconsumed_tail
            if total > LARGEST:
                raise InputError(f"{path} unpacks to more than {LARGEST} bytes; expected no more")
        at += 8 + size


_READERS: dict[str, Callable[[bytes, Path], np.ndarray | Tensor]] = {
    ".npy": lambda data, path: _npy(io.BytesIO(data), path),
    ".npz": _npz,
    ".pt": _pt,
    ".mat": _mat,
}
_SHAPES: dict[str, Callable[[bytes, Path], tuple[int, ...]]] = {
    ".npy": lambda data, path: _npy_header(io.BytesIO(data))[0],
    ".npz": _npz_shape,
    ".pt": _pt_shape,
    ".mat": _mat_shape,
}
ARRAYS = frozenset(_READERS)
