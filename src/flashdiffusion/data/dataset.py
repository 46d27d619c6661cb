"""Folders of images and tar shards as one indexed set of square images."""

import hashlib
import os
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from flashdiffusion.data.decoding import SUFFIXES, decode_image
from flashdiffusion.data.files import expect_file, read_bytes, write_bytes
from flashdiffusion.data.images import LARGEST_FILE, fit, to_tensor
from flashdiffusion.data.prefetch import in_chunks, prefetched
from flashdiffusion.data.walking import PassedOver, walk
from flashdiffusion.errors import InputError, blamed_on

_MARK = "/./"  # in a line of a list, between what --data takes and the image's id in it; rsync marks paths the same way


@dataclass(frozen=True)
class _Entry:
    """Where the bytes of one image lie: `length` bytes from `offset`, or the whole file."""

    id: str
    file: Path
    offset: int = 0
    length: int = -1

    def read(self) -> bytes:
        length = self.length if self.length >= 0 else expect_file(self.file)
        if length > LARGEST_FILE:
            raise InputError(f"cannot read {self.id}: it has {length} bytes; expected at most {LARGEST_FILE}")
        try:
            with self.file.open("rb") as stream:
                stream.seek(self.offset)
                return stream.read(length)
        except OSError as error:
            raise InputError(f"cannot read {self.file}: {error.strerror or error}") from error

    @property
    def line(self) -> str:
        """The line of a list that stands for it, see `_listed`."""
        file = self.file.absolute().as_posix()
        if self.length >= 0:
            return f"{file}{_MARK}{self.id}"
        return f"{file.removesuffix(f'/{self.id}')}{_MARK}{self.id}" if file.endswith(f"/{self.id}") else file


def _entries(path: Path, notes: list[str]) -> list[_Entry]:
    if path.is_dir():
        files, passed = walk(path, SUFFIXES)
        entries = [_Entry(f.relative_to(path).as_posix(), f) for f in files]
    elif path.suffix.lower() == ".tar" and path.exists():
        entries, passed = _members(path)
    elif path.suffix.lower() == ".txt" and path.exists():
        return _listed(path)
    else:
        if not path.exists() and not path.is_symlink():
            raise InputError(f"no such file or folder: {path}")
        expect_file(path)
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: expected a folder of images, a .tar shard, a .txt list or an image")
        return [_Entry(path.name, path)]
    if (note := passed.say(path)) is not None:
        notes.append(note)
    return entries


def _members(path: Path) -> tuple[list[_Entry], PassedOver]:
    """List the images of a tar shard; refuse one whose headers point backwards or past its end."""
    size, passed, entries, last = expect_file(path), PassedOver(), list[_Entry](), -1
    # Compressed, its offsets would not be those of the file.
    with blamed_on(f"cannot read tar shard {path}", InputError), tarfile.open(path, "r:") as shard:
        for member in shard:
            if member.offset <= last or member.size < 0 or member.offset_data + member.size > size:
                raise InputError(f"cannot read tar shard {path}: damaged or truncated at {member.name!r}")
            last = member.offset
            if member.isfile() and passed.takes(PurePosixPath(member.name), SUFFIXES) and not member.issparse():
                entries.append(_Entry(member.name, path, member.offset_data, member.size))
    return entries, passed


def _listed(path: Path) -> list[_Entry]:
    """The images of a list: a path a line, absolute or from the list's folder; SHARD.tar/./ID is one of a tar shard.

    The id of FOLDER/./ID or SHARD.tar/./ID is that with the whole folder or shard as data; of others it is the line.
    """
    shards, entries = dict[str, dict[str, _Entry]](), list[_Entry]()
    lines = os.fsdecode(read_bytes(path, LARGEST_FILE)).split("\n")
    for number, line in enumerate((one.removesuffix("\r") for one in lines), start=1):
        source, mark, name = line.partition(_MARK)
        try:
            if mark and source.lower().endswith(".tar"):
                if source not in shards:
                    shards[source] = {entry.id: entry for entry in _members(path.parent / source)[0]}
                if name not in shards[source]:
                    raise InputError(f"no image {name} in {source}")
                entries.append(shards[source][name])
            elif line:
                expect_file(path.parent / line)
                entries.append(_Entry(name or line, path.parent / line))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    return entries


class ImageDataset:
    """Images of folders, uncompressed tar shards, lists (.txt) and files, centre-cropped and resized to a square.

    Items are uint8 (3, size, size); `ids[i]` names image i; `notes` says what was passed over. Decoded images
    are kept in memory as long as `cache_gib` allows, so that later epochs cost nothing.

    Raises:
        InputError: a path is missing, unreadable or holds no image; a limit below 1.
    """

    def __init__(
        self, paths: Iterable[str | Path], size: int, limit: int | None = None, cache_gib: float = 4.0
    ) -> None:
        if limit is not None and limit < 1:
            raise InputError(f"limit is {limit}; expected at least 1")
        self.notes: list[str] = []
        self._entries = [entry for path in paths for entry in _entries(Path(path), self.notes)][:limit]
        if not self._entries:
            raise InputError("no images found; --data takes folders of images, .tar shards and .txt lists")
        self.ids = [entry.id for entry in self._entries]
        self.size = size
        self._cache: dict[int, Tensor] = {}
        self._damaged: set[int] = set()
        self._cache_items = int(cache_gib * 2**30 / (3 * size * size))
        self._pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Tensor:
        if (hit := self._cache.get(index)) is not None:
            return hit
        entry = self._entries[index]
        values = to_tensor(fit(decode_image(entry.read(), entry.id), self.size))
        item = (values * 255).round().to(torch.uint8)
        if len(self._cache) < self._cache_items:
            self._cache[index] = item
        return item

    def identity(self) -> str:
        """Hash what the items are made of: files with their sizes and times, places in them, and the items' size."""
        files = {entry.file: entry.file.stat() for entry in self._entries}
        about = [(str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file, stat in files.items()]
        places = [(entry.id, entry.offset, entry.length) for entry in self._entries]
        return hashlib.blake2b(repr((self.size, about, places)).encode(), digest_size=16).hexdigest()

    def digest(self, index: int) -> str:
        """Hash the bytes of an image; raises InputError if it cannot be read."""
        return hashlib.blake2b(self._entries[index].read(), digest_size=16).hexdigest()

    def batch(self, indices: Sequence[int], replace_damaged: bool = False) -> Tensor:
        """Read images as float32 (B, 3, size, size) in [0, 1].

        With `replace_damaged` the next readable image takes the place of one that cannot be read, and stderr says so.

        Raises:
            InputError: an image cannot be read (with `replace_damaged`: none can).
        """
        whole = self.rows(indices) if replace_damaged else torch.stack(list(self._pool.map(self.__getitem__, indices)))
        return whole.float() / 255

    def rows(self, indices: Sequence[int]) -> Tensor:
        """Read images as uint8 (B, 3, size, size), with the next readable one in place of one that cannot be read.

        Raises:
            InputError: none can be read.
        """
        return torch.stack(list(self._pool.map(self._nearest_readable, indices)))

    def _nearest_readable(self, index: int) -> Tensor:
        for offset in range(len(self)):
            candidate = (index + offset) % len(self)
            if candidate in self._damaged:
                continue
            try:
                return self[candidate]
            except InputError as error:
                self._damaged.add(candidate)
                print(f"flashdiffusion: left out: {error}", file=sys.stderr)
        raise InputError("none of the images can be read")

    def attempt(self, indices: Sequence[int]) -> list[Tensor | InputError]:
        """Read each image as uint8 (3, size, size), in several threads; give the error for one that cannot be read."""

        def read(index: int) -> Tensor | InputError:
            try:
                return self[index]
            except InputError as error:
                return error

        return list(self._pool.map(read, indices))

    def batches(self, indices: Iterable[int], size: int) -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
        """Read `size` images at a time, the next ones in a thread.

        Yields:
            Those of the indices that can be read, their images, float32 (B, 3, size, size) in [0, 1], and for each
            other index the reason why it cannot.
        """

        def read(chunk: list[int]) -> tuple[list[int], Tensor, dict[int, str]]:
            found = dict(zip(chunk, self.attempt(chunk), strict=True))
            images = {index: one for index, one in found.items() if isinstance(one, Tensor)}
            failed = {index: str(one) for index, one in found.items() if isinstance(one, InputError)}
            whole = torch.stack([*images.values()]) if images else torch.empty(0, 3, self.size, self.size)
            return [*images], whole.float() / 255, failed

        return prefetched(read(chunk) for chunk in in_chunks(indices, size))

    def write_list(self, path: str | Path, indices: Iterable[int]) -> None:
        """Write a list of images, in this order, that is itself data (.txt), with the same ids.

        Raises:
            InputError: a path with a line break in it.
        """
        lines = [self._entries[index].line for index in indices]
        if broken := [line for line in lines if "\n" in line or line.endswith("\r")]:
            raise InputError(f"{path}: {broken[0]!r} cannot be listed; expected paths without line breaks")
        write_bytes(path, os.fsencode("".join(f"{line}\n" for line in lines)))
