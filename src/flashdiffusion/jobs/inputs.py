"""Which input an image was made of: its content counts, not how its path is written."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flashdiffusion.data.files import expect_file
from flashdiffusion.data.named import by_name
from flashdiffusion.errors import InputError
from flashdiffusion.jobs.parse import read_physics


def digest(*files: str | Path) -> str:
    """Hash of the content of files, in this order.

    Raises:
        InputError: one is missing, or no file but a pipe or device.
        OSError: one cannot be read.
    """
    total = hashlib.blake2b(digest_size=16)
    for file in files:
        expect_file(file)
        with Path(file).open("rb") as stream:
            total.update(hashlib.file_digest(stream, "blake2b").digest())
    return total.hexdigest()


def placed(about: Any) -> Any:
    """What a run is about, its files and folders by their absolute paths, however they were written; to compare.

    Records hold paths as they were given: others read them too.
    """
    if isinstance(about, Mapping):
        return {placed(key): placed(value) for key, value in about.items()}
    if isinstance(about, (list, tuple)):
        return [placed(value) for value in about]
    if isinstance(about, str):
        with suppress(OSError, InputError):  # no file has so long a name; no data set has this one
            if Path(about).exists():
                return str(Path(about).resolve())
            if (named := by_name(about)) is not None:
                return f"{named[0].name}:{named[1].resolve()}"
    return about


def named_files(physics: str | None) -> dict[str, str]:
    """Content of the files that a degradation on the command line names (masks, weights), by their path."""
    named = [file for one in read_physics(physics) for file in one.files] if physics is not None else []
    return {str(file): digest(file) for file in named if file.is_file()}
