"""Which input an image was made of: its content counts, not how its path is written."""

import hashlib
from pathlib import Path

from flashdiffusion.data.files import expect_file
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


def place(name: str | Path | None) -> str | None:
    """A folder or file by its absolute path, through links; a name that is neither as it is."""
    if name is None:
        return None
    return str(Path(name).resolve()) if Path(name).exists() else str(name)


def named_files(physics: str | None) -> dict[str, str]:
    """Content of the files that a degradation on the command line names (masks, weights), by their path."""
    named = [file for one in read_physics(physics) for file in one.files] if physics is not None else []
    return {str(file): digest(file) for file in named if file.is_file()}
