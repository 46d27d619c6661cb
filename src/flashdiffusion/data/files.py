"""Reads regular files only; writes files so that a half-written one never has its final name."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashdiffusion.errors import InputError


def cut(name: str, length: int) -> str:
    """Cut a name to at most `length` bytes on disk, where 255 is the limit."""
    while len(os.fsencode(name)) > length:
        name = name[:-1]
    return name


def unique(names: Iterable[str]) -> list[str]:
    """Make names unique by adding numbers to those that repeat."""
    taken: dict[str, None] = {}
    for given in names:
        name, n = given, 2
        while name in taken:
            name, n = f"{given}-{n}", n + 1
        taken[name] = None
    return list(taken)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or a folder, renamed to `path` only if the block succeeds."""
    path = Path(path)
    temporary = path.with_name(f".{cut(path.name, 200)}.{os.getpid()}.tmp{cut(path.suffix, 30)}")
    try:
        yield temporary
        temporary.replace(path)  # a folder: onto nothing, or an empty one
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def ensure_directory(path: str | Path) -> Path:
    """Create an output folder; raises InputError if it cannot be created or written, or is a file."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write to output folder {path}: {reason}; give a writable folder") from error
    return path


def ensure_file(path: str | Path) -> Path:
    """Create an output file's folder; raises InputError if that cannot be written, or the file is a folder."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"output {path} is a folder; expected a file")
    ensure_directory(path.parent)
    return path


def expect_file(path: str | Path) -> int:
    """Return a regular file's size in bytes; raises InputError for none, or for a folder, pipe, socket or device."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "pipe, socket or device"
        raise InputError(f"cannot read {path}: it is a {kind}; expected a file")
    return status.st_size


def read_bytes(path: str | Path, limit: int) -> bytes:
    """Read a regular file; raises InputError as `expect_file`, and if it is unreadable or larger than `limit` bytes."""
    if (size := expect_file(path)) > limit:
        raise InputError(f"cannot read {path}: it has {size} bytes; expected at most {limit}")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinities are refused."""
    write_bytes(path, f"{json.dumps(value, indent=2, allow_nan=False)}\n".encode())
