"""Jobs for tests of what runs jobs; in a module of its own, so that other processes can import it."""

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flashdiffusion.engine.kept import KeptTiles
from flashdiffusion.errors import InputError
from flashdiffusion.jobs import Item, RestoreJob
from flashdiffusion.jobs.restore import RestoreWorker


@dataclass(frozen=True)
class Counting:
    """Gives every item back with the folder it was worked on in.

    kill: the item at which the first process that gets to it kills itself; folder: where it notes that it did.
    """

    folder: Path
    kill: int | None = None
    refused: str | None = None

    def open(self) -> "Counting":
        if self.refused is not None:
            raise InputError(self.refused)
        return self

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            marker = self.folder / "killed"
            if item.index == self.kill and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            png = b"\x89PNG\x00" + bytes([item.index, 0, 0])  # ends in zeros, which some containers drop
            record = {"id": item.name, "where": str(Path.cwd())}
            odd = item.index % 2 == 1
            pngs = {"restored": png}
            yield replace(item, record=record, pngs=pngs, reason="odd" if odd else None, notes=("a", "b"))


@dataclass(frozen=True)
class Stopping(RestoreJob):
    """Restores, and fails once, when three tiles are kept; it lists those that it keeps."""

    def open(self) -> RestoreWorker:
        assert self.kept is not None
        listed, stopped, keep = Path(self.kept[0], "kept.txt"), Path(self.kept[0], "stopped"), KeptTiles.keep

        def listing(tiles, place, tile):
            if not stopped.exists() and listed.exists() and len(listed.read_text().splitlines()) == 3:
                stopped.touch()
                raise InputError("stopped")
            keep(tiles, place, tile)
            with listed.open("a") as stream:
                stream.write(f"{place}\n")

        KeptTiles.keep = listing
        return super().open()
