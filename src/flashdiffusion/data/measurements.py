"""Measurement files: the exact tensor and operator parameters, as safetensors."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from flashdiffusion.data.files import expect_file, read_bytes, write_bytes
from flashdiffusion.data.pictures import Kind
from flashdiffusion.errors import CheckpointError, blamed_on, shown

SUFFIX = ".safetensors"
_FORMAT = "flashdiffusion-measurement"
_VERSION = 1
_MORE: dict[str, Any] = {"source": str, "fitted": bool}
_ALPHA, _PROFILE = "alpha", "profile"  # tensors of a kind of picture
LARGEST = 2**31  # bytes of a file
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@dataclass(frozen=True)
class MeasurementFile:
    """One image's measurement: y (3, H, W), and its operator by name with per-image parameters (1, ...).

    source: the file of the true image, relative to the folder that was degraded. fitted: whether that image was
    cropped and resized. kind: what it is beside its values, for what is made of it.
    """

    id: str
    y: Tensor
    physics: str
    params: dict[str, Tensor]
    noise_std: float
    source: str | None = None
    fitted: bool = False
    kind: Kind = field(default_factory=Kind)

    def save(self, path: str | Path) -> None:
        """Write the file, atomically."""
        tensors = {"y": self.y} | {f"params.{key}": value for key, value in self.params.items()}
        if self.kind.alpha is not None:
            tensors[_ALPHA] = self.kind.alpha
        if self.kind.profile is not None:
            tensors[_PROFILE] = torch.frombuffer(bytearray(self.kind.profile), dtype=torch.uint8)
        about = {name: getattr(self, name) for name in ("id", "physics", "noise_std", *_MORE)}
        about |= {"grey": self.kind.grey, "bits": self.kind.bits}
        # Not save_file, which takes names in UTF-8 alone.
        metadata = {"format": _FORMAT, "version": str(_VERSION), "measurement": json.dumps(about)}
        write_bytes(path, save({key: value.contiguous() for key, value in tensors.items()}, metadata))

    @classmethod
    def load(cls, path: str | Path) -> "MeasurementFile":
        """Read a file that `save` wrote.

        Raises:
            InputError: missing, unreadable, no plain file or of more than 2 GiB.
            CheckpointError: another kind of safetensors file, of another version, damaged, or with values of no size.
        """
        path = Path(path)
        data = read_bytes(path, LARGEST)
        with blamed_on(f"{path} is damaged or no measurement"):
            tensors = load(data)  # sizes are checked against the file's before anything is allocated
            metadata = _metadata(data)
            if metadata.get("format") != _FORMAT:
                raise CheckpointError(f"{path} is no measurement; expected a file that `flashdiffusion degrade` wrote")
            if (version := metadata.get("version")) != str(_VERSION):
                raise CheckpointError(f"{path} is a measurement of version {version}; this library reads {_VERSION}")
            about = json.loads(metadata["measurement"])
            for key, value in tensors.items():
                _expect_values(key, value, path)
            y, kind = tensors.pop("y"), _kind(tensors, about)
            params = {key.removeprefix("params."): value for key, value in tensors.items()}
            more = {key: type_(about[key]) for key, type_ in _MORE.items() if about.get(key) is not None}
            return cls(str(about["id"]), y, str(about["physics"]), params, float(about["noise_std"]), kind=kind, **more)


def _kind(tensors: dict[str, Tensor], about: dict[str, Any]) -> Kind:
    """Take the kind of picture from the tensors of a file, and what it says of itself."""
    alpha, profile = tensors.pop(_ALPHA, None), tensors.pop(_PROFILE, None)
    bits = about.get("bits", 8)
    if bits not in {8, 16} or (alpha is not None and (alpha.ndim != 3 or len(alpha) != 1)):
        raise CheckpointError(f"bits are {shown(bits)}; expected 8 or 16, and alpha (1, H, W) if there is any")
    alpha = None if alpha is None else alpha.float().clamp(0, 1)
    return Kind(
        bool(about.get("grey")), bits, alpha, None if profile is None else bytes(profile.to(torch.uint8).tolist())
    )


def _expect_values(key: str, value: Tensor, path: Path) -> None:
    if value.numel() == 0:
        raise CheckpointError(f"{path}: {key} has shape {tuple(value.shape)}; expected at least one value")
    if value.dtype.is_floating_point and value.dtype not in _FLOATS:
        raise CheckpointError(f"{path}: {key} is {value.dtype}; expected floats of 16 to 64 bits")


def _metadata(data: bytes) -> dict[str, str]:
    """Read the metadata in the header of a safetensors file."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header.get("__metadata__", {}))


def source_of(path: Path) -> str | None:
    """Read the `source` of a measurement file but not its tensors; None if it cannot be read."""
    try:
        size = expect_file(path)
        with path.open("rb") as stream:
            length = stream.read(8)
            data = length + stream.read(min(int.from_bytes(length, "little"), size, LARGEST))
        source = json.loads(_metadata(data)["measurement"]).get("source")
    except Exception:  # the run says why, with the file's own failure
        return None
    return source if source is None else str(source)
