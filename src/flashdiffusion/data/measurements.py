"""Measurement files: the exact tensor and operator parameters, as safetensors."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flashdiffusion.data.files import atomic_path
from flashdiffusion.errors import CheckpointError, InputError

SUFFIX = ".safetensors"
_FORMAT = "flashdiffusion-measurement"
_VERSION = 1


@dataclass(frozen=True)
class MeasurementFile:
    """One image's measurement: y (3, H, W), and its operator by name with per-image parameters (1, ...)."""

    id: str
    y: Tensor
    physics: str
    params: dict[str, Tensor]
    noise_std: float

    def save(self, path: str | Path) -> None:
        """Write the file, atomically."""
        tensors = {"y": self.y.contiguous()} | {
            f"params.{key}": value.contiguous() for key, value in self.params.items()
        }
        about = {"id": self.id, "physics": self.physics, "noise_std": self.noise_std}
        metadata = {"format": _FORMAT, "version": str(_VERSION), "measurement": json.dumps(about)}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "MeasurementFile":
        """Read a file that `save` wrote.

        Raises:
            InputError: missing or unreadable.
            CheckpointError: another kind of safetensors file, or of another version.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"cannot read {path}: no such file")
        try:
            with safe_open(path, framework="pt") as stream:
                metadata = stream.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise CheckpointError(
                        f"{path} is no measurement; expected a file that `flashdiffusion degrade` wrote"
                    )
                if metadata.get("version") != str(_VERSION):
                    raise CheckpointError(
                        f"{path} is a measurement of version {metadata.get('version')}; this library reads {_VERSION}"
                    )
                tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 (not a dict)
            about = json.loads(metadata["measurement"])
            y = tensors.pop("y")
            params = {key.removeprefix("params."): value for key, value in tensors.items()}
            return cls(str(about["id"]), y, str(about["physics"]), params, float(about["noise_std"]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise CheckpointError(f"{path} is damaged or no measurement: {error}") from error
