"""Which files a folder or tar shard holds, the same for every command."""

import os
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from flashdiffusion.errors import InputError

# Folders and files that systems and viewers leave beside images, thumbnails among them.
_SIDE = {"@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "thumbs.db", "desktop.ini", "ehthumbs.db"}
_SILENT = frozenset({".json"})  # the records of our own commands


@dataclass
class PassedOver:
    """What was not taken: hidden and side files and folders, and files of other kinds by suffix."""

    hidden: int = 0
    others: dict[str, int] = field(default_factory=dict)

    def takes(self, path: PurePosixPath, suffixes: Collection[str]) -> bool:
        """Tell whether a file has one of these suffixes; count it if not."""
        if any(is_side(part) for part in path.parts):
            self.hidden += 1
        elif (suffix := path.suffix.lower()) in suffixes:
            return True
        elif suffix not in _SILENT:
            self.others[suffix or "no suffix"] = self.others.get(suffix or "no suffix", 0) + 1
        return False

    def say(self, where: str | Path) -> str | None:
        """Describe in one line what was passed over; None if nothing was."""
        parts = []
        if self.others:
            kinds = ", ".join(sorted(self.others)[:5]) + (", ..." if len(self.others) > 5 else "")
            parts.append(f"{sum(self.others.values())} of other kinds ({kinds})")
        if self.hidden:
            parts.append(f"{self.hidden} hidden, or left there by another program")
        return f"passed over in {where}: {'; '.join(parts)}" if parts else None


def is_side(name: str) -> bool:
    """Tell whether a file or folder is hidden or belongs to another program."""
    return (name.startswith(".") and name not in {".", ".."}) or name.lower() in _SIDE


def walk(folder: Path, suffixes: Collection[str]) -> tuple[list[Path], PassedOver]:
    """Find files with one of the suffixes below a folder, sorted; links are followed, each folder is read once.

    Raises:
        InputError: a folder that cannot be read.
    """
    passed, found = PassedOver(), []
    seen: set[tuple[int, int]] = set()
    waiting = deque([folder])
    while waiting:
        here = waiting.popleft()
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in _listed(here):
            path = here / entry.name
            if path.is_dir():
                if is_side(entry.name):
                    passed.hidden += 1
                elif entry.is_symlink():
                    waiting.append(path)  # last, so that files have the path without a link where there is one
                else:
                    waiting.appendleft(path)
            elif passed.takes(PurePosixPath(entry.name), suffixes):
                found.append(path)
    return sorted(found), passed


def _listed(folder: Path) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot read folder {folder}: {error.strerror or error}") from error
