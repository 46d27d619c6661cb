"""Reads tensors from checkpoint files, without ever running code in a pickle."""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickletools import genops
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flashdiffusion.data import expect_file
from flashdiffusion.errors import CheckpointError, blamed_on, brief, shown

# What training frameworks leave beside the weights: callbacks, hyperparameters, paths. None of it is imported or
# called; each name is answered by a stand-in that takes anything and does nothing.
_BESIDE_WEIGHTS = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.")
_LONGEST = 200  # characters of a tensor's name
_DEFAULTDICT = "collections.defaultdict"
_PLAIN_NAMES = {
    "argparse.Namespace",
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
    "builtins.str",
    _DEFAULTDICT,
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
    "typing.Any",
}


class _StandIn:
    """Takes the place of a training framework's object: holds nothing, does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> "_StandIn":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def check_sha256(path: Path, expected: str | None) -> None:
    """Raise CheckpointError unless the file's SHA-256 is the expected one; None expects nothing."""
    if expected is None:
        return
    if not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise CheckpointError(f"sha256 {expected!r} for {path}; expected 64 hexadecimal digits")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if found != expected.lower():
        raise CheckpointError(
            f"{path} has sha256 {found}; expected {expected.lower()}: it is damaged or another file, download it again"
        )


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read the named tensors of a .ckpt, .pt, .pth, .bin or .safetensors file, on the CPU.

    A lightning checkpoint gives its `state_dict`.

    Raises:
        CheckpointError: no checkpoint, one with code in it (never executed), other content than tensors, or another
            SHA-256 than expected.
    """
    with blamed_on(path):
        size = expect_file(path)
    check_sha256(path, sha256)
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected named tensors, or a `state_dict`")
    for name, value in content.items():
        if not isinstance(name, str) or not name.isprintable() or len(name) > _LONGEST:
            raise CheckpointError(f"{path} has a key {shown(name)}; expected names of tensors, as in a state_dict")
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_nested or value.is_quantized:
            kind = f"a {type(value).__name__}" if not isinstance(value, Tensor) else "no plain tensor"
            raise CheckpointError(f"{path}: {name} is {kind}; expected a tensor, as in a model's state_dict")
    # A few numbers in a pickle can stand for tensors of any size. Some weights may share their numbers.
    if (asked := sum(value.nbytes for value in content.values())) > 2 * size or any(
        v.is_meta for v in content.values()
    ):
        raise CheckpointError(f"{path} has {size} bytes and asks for tensors of {asked}; expected what it holds")
    return dict(content)


def _load_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {brief(error)}; download it again") from error


def _load_torch(path: Path) -> Any:
    names: list[str] = []
    try:
        if zipped := zipfile.is_zipfile(path):
            if any(part.compress_type != zipfile.ZIP_STORED for part in zipfile.ZipFile(path).infolist()):
                raise CheckpointError(f"{path} is a compressed archive; expected a file that torch.save wrote")
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        for name in names:
            if not name.startswith(_BESIDE_WEIGHTS) and name not in _PLAIN_NAMES:
                raise _holds_code(path, name)
        # torch's reader puts nothing into a defaultdict.
        stand_ins: list[Any] = [((lambda *_: {}) if name == _DEFAULTDICT else _StandIn, name) for name in names]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # torch raises many kinds for files that are no checkpoints
        if foreign := names[0] if names else _foreign_name(path):
            raise _holds_code(path, foreign) from error
        raise CheckpointError(
            f"{path} is no checkpoint that torch can read as tensors: {brief(error, 120)}; is the download complete?"
        ) from error


def _foreign_name(path: Path) -> str | None:
    """Find the first name foreign to torch in a bare pickle or a file of torch < 1.6, without running it."""
    texts: list[str] = []
    with path.open("rb") as file:
        for _ in range(4):  # such files hold consecutive pickles; the fourth is the content
            try:
                for opcode, argument, _ in genops(file):
                    if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                        parts = texts[-2:] if opcode.name == "STACK_GLOBAL" else str(argument).split()
                        name = ".".join(parts)
                        if not name.startswith(("torch.", "collections.OrderedDict")):
                            return name
                    elif isinstance(argument, str):
                        texts.append(argument)
            except (ValueError, EOFError):  # no pickle, or its end
                return None
    return None


def _holds_code(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path} holds code ({name}), which is not executed; expected tensors only. If you trust the file, make such a "
        "file where it was made: torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW)"
    )
