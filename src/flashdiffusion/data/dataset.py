"""Folders of images and tar shards as one indexed set of square images."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from flashdiffusion.data.decoding import decode_image
from flashdiffusion.data.entries import list_entries
from flashdiffusion.data.files import write_bytes
from flashdiffusion.data.images import fit, to_tensor
from flashdiffusion.data.named import find_by_name
from flashdiffusion.data.prefetch import in_chunks, prefetched
from flashdiffusion.errors import InputError


class ImageDataset:
    """Images of folders, uncompressed tar shards, lists (.txt) and files, centre-cropped and resized to a square.

    Items are uint8 (3, size, size), or (3, H, W) of their own size if `size` is None. `ids[i]` names image i; `notes`
    says what was passed over. Decoded images are kept in memory as long as `cache_gib` allows, so that later epochs
    cost nothing.

    Args:
        paths: folders, shards and files; or data sets by name, such as `celebahq:FOLDER` (`data.named`), of which the
            images of a split are taken, in the order of its list.
        split: of data sets by name: "test" (default), "val", or "train" for all others.

    Raises:
        InputError: a path is missing, unreadable or holds no image; a limit below 1; an image of a split is missing
            or there twice; a split of a path without a name.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        size: int | None,
        limit: int | None = None,
        cache_gib: float = 4.0,
        split: str | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise InputError(f"limit is {limit}; expected at least 1")
        self.notes: list[str] = []
        paths = list(paths)
        found = find_by_name(paths, split, limit, self.notes)
        if found is None:
            entries = [entry for path in paths for entry in list_entries(Path(path), self.notes)][:limit]
            found = [(entry.name, entry) for entry in entries]
        if not found:
            raise InputError("no images found; --data takes folders of images, .tar shards and .txt lists")
        self.ids = [id for id, _ in found]
        self._entries = [entry for _, entry in found]
        self.size = size
        self._cache: dict[int, Tensor] = {}
        self._damaged: set[int] = set()
        self._room, self._counting = int(cache_gib * 2**30), Lock()  # bytes left for items
        self._pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))

    @property
    def side(self) -> int:
        """Side of the squares in pixels; raises InputError for images of their own sizes."""
        if self.size is None:
            raise InputError("images of their own sizes; expected images of one size here")
        return self.size

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Tensor:
        if (hit := self._cache.get(index)) is not None:
            return hit
        entry = self._entries[index]
        image = decode_image(entry.read(), entry.name)
        item = (to_tensor(image if self.size is None else fit(image, self.size)) * 255).round().to(torch.uint8)
        if self._takes(item.numel()):
            self._cache[index] = item
        return item

    def _takes(self, size: int) -> bool:
        """Take so many bytes of the cache, if there is room."""
        with self._counting:
            self._room -= size if (room := size <= self._room) else 0
        return room

    def identity(self) -> str:
        """Hash what the items are made of: files with their sizes and times, places in them, and the items' size."""
        files = {entry.file: entry.file.stat() for entry in self._entries}
        about = [(str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file, stat in files.items()]
        places = [(entry.name, entry.offset, entry.length) for entry in self._entries]
        return hashlib.blake2b(repr((self.size, about, places)).encode(), digest_size=16).hexdigest()

    def digest(self, index: int) -> str:
        """Hash the bytes of an image; raises InputError if it cannot be read."""
        return hashlib.blake2b(self._entries[index].read(), digest_size=16).hexdigest()

    def batch(self, indices: Sequence[int], replace_damaged: bool = False) -> Tensor:
        """Read images of one size as float32 (B, 3, size, size) in [0, 1].

        With `replace_damaged` the next readable image takes the place of one that cannot be read, and stderr says so.

        Raises:
            InputError: an image cannot be read (with `replace_damaged`: none can).
        """
        whole = self.rows(indices) if replace_damaged else torch.stack(list(self._pool.map(self.__getitem__, indices)))
        return whole.float() / 255

    def rows(self, indices: Sequence[int]) -> Tensor:
        """Read images as uint8 (B, 3, size, size), with the next readable one in place of one that cannot be read.

        Index i is of image i % n, of n images: a training asks for each of them again and again.

        Raises:
            InputError: none can be read.
        """
        return torch.stack(list(self._pool.map(self._nearest_readable, indices)))

    def _nearest_readable(self, index: int) -> Tensor:
        time, place = divmod(index, len(self))
        for offset in range(len(self)):
            candidate = (place + offset) % len(self)
            if candidate in self._damaged:
                continue
            try:
                return self._drawn(candidate, time)
            except InputError as error:
                self._damaged.add(candidate)
                print(f"flashdiffusion: left out: {error}", file=sys.stderr)
        raise InputError("none of the images can be read")

    def _drawn(self, place: int, time: int) -> Tensor:
        """Give the item of an image that is asked for the `time`-th time: always the same."""
        return self[place]

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
            whole = torch.stack([*images.values()]) if images else torch.empty(0, 3, self.size or 0, self.size or 0)
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
