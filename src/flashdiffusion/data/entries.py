"""Where the images of folders, tar shards, lists and files lie."""

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flashdiffusion.data.decoding import SUFFIXES
from flashdiffusion.data.files import expect_file, read_bytes
from flashdiffusion.data.images import LARGEST_FILE
from flashdiffusion.data.walking import PassedOver, walk
from flashdiffusion.errors import InputError, blamed_on

SHARD = ".tar"
LIST = ".txt"
_MARK = "/./"  # in a line of a list, between what --data takes and the image's id in it; rsync marks paths the same way


@dataclass(frozen=True)
class Entry:
    """Where the bytes of one image lie: `length` bytes from `offset`, or the whole file.

    name: its path in the folder or shard.
    """

    name: str
    file: Path
    offset: int = 0
    length: int = -1

    @property
    def place(self) -> str:
        """The file, and the name in it if it is a shard."""
        return str(self.file) if self.length < 0 else f"{self.file}: {self.name}"

    @property
    def line(self) -> str:
        """The line of a list that stands for it."""
        file = self.file.absolute().as_posix()
        if self.length >= 0:
            return f"{file}{_MARK}{self.name}"
        return f"{file.removesuffix(f'/{self.name}')}{_MARK}{self.name}" if file.endswith(f"/{self.name}") else file

    def read(self) -> bytes:
        """Read the image's file; raises InputError if it cannot be read, or is too large."""
        length = self.length if self.length >= 0 else expect_file(self.file)
        if length > LARGEST_FILE:
            raise InputError(f"cannot read {self.name}: it has {length} bytes; expected at most {LARGEST_FILE}")
        try:
            with self.file.open("rb") as stream:
                stream.seek(self.offset)
                return stream.read(length)
        except OSError as error:
            raise InputError(f"cannot read {self.file}: {error.strerror or error}") from error


def list_entries(path: Path, notes: list[str], shards: bool = False) -> list[Entry]:
    """List the images of a folder, tar shard, list or file; `notes` gains what was passed over.

    Args:
        shards: whether those of tar shards in a folder count too.

    Raises:
        InputError: missing, unreadable, or none of the four.
    """
    if path.is_dir():
        files, passed = walk(path, SUFFIXES | {SHARD} if shards else SUFFIXES)
        entries = []
        for file in files:
            if file.suffix.lower() == SHARD:
                entries += list_entries(file, notes)
            else:
                entries.append(Entry(file.relative_to(path).as_posix(), file))
    elif path.suffix.lower() == SHARD and path.exists():
        entries, passed = _members(path)
    elif path.suffix.lower() == LIST and path.exists():
        return _listed(path)
    else:
        if not path.exists() and not path.is_symlink():
            raise InputError(f"no such file or folder: {path}")
        expect_file(path)
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: expected a folder of images, a .tar shard, a .txt list or an image")
        return [Entry(path.name, path)]
    if (note := passed.say(path)) is not None:
        notes.append(note)
    return entries


def _members(path: Path) -> tuple[list[Entry], PassedOver]:
    """List the images of a tar shard; refuse one whose headers point backwards or past its end."""
    size, passed, entries, last = expect_file(path), PassedOver(), list[Entry](), -1
    # Compressed, its offsets would not be those of the file.
    with blamed_on(f"cannot read tar shard {path}", InputError), tarfile.open(path, "r:") as shard:
        for member in shard:
            if member.offset <= last or member.size < 0 or member.offset_data + member.size > size:
                raise InputError(f"cannot read tar shard {path}: damaged or truncated at {member.name!r}")
            last = member.offset
            if member.isfile() and passed.takes(PurePosixPath(member.name), SUFFIXES) and not member.issparse():
                entries.append(Entry(member.name, path, member.offset_data, member.size))
    return entries, passed


def _listed(path: Path) -> list[Entry]:
    """The images of a list: a path a line, absolute or from the list's folder; SHARD.tar/./ID is one of a tar shard.

    The id of FOLDER/./ID or SHARD.tar/./ID is that with the whole folder or shard as data; of others it is the line.
    """
    shards, entries = dict[str, dict[str, Entry]](), list[Entry]()
    lines = os.fsdecode(read_bytes(path, LARGEST_FILE)).split("\n")
    for number, line in enumerate((one.removesuffix("\r") for one in lines), start=1):
        source, mark, name = line.partition(_MARK)
        try:
            if mark and source.lower().endswith(".tar"):
                if source not in shards:
                    shards[source] = {entry.name: entry for entry in _members(path.parent / source)[0]}
                if name not in shards[source]:
                    raise InputError(f"no image {name} in {source}")
                entries.append(shards[source][name])
            elif line:
                expect_file(path.parent / line)
                entries.append(Entry(name or line, path.parent / line))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    return entries
