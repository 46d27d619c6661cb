"""Finished tiles of a picture, kept in files until it is whole: a run that was killed goes on from them."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flashdiffusion.data import ensure_directory, write_bytes
from flashdiffusion.engine.batch import FIGURES, Restored
from flashdiffusion.errors import InputError, brief


class KeptTiles:
    """Tiles of one picture in a folder, a file each."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def _file(self, place: tuple[int, int]) -> Path:
        return self.folder / "{}-{}.safetensors".format(*place)

    def has(self, place: tuple[int, int]) -> bool:
        """Whether the tile in this row and column is there."""
        return self._file(place).is_file()

    def keep(self, place: tuple[int, int], tile: Restored) -> None:
        """Write a tile that is done."""
        tensors: dict[str, Tensor | None] = {"image": tile.image, "severity_map": tile.severity_map}
        given = {name: value.contiguous() for name, value in tensors.items() if value is not None}
        ensure_directory(self.folder)
        write_bytes(self._file(place), save(given, {"figures": json.dumps(tile.row())}))

    def fill(self, place: tuple[int, int], tile: Restored) -> None:
        """Read into a tile what was kept of it.

        Raises:
            InputError: a file that cannot be read.
        """
        path = self._file(place)
        try:
            with safe_open(path, "pt") as file:
                figures = json.loads(file.metadata()["figures"])
                for name in file.keys():  # noqa: SIM118  # it is no dict
                    setattr(tile, name, file.get_tensor(name))
            if tile.image is None:
                raise ValueError("it holds no image")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({brief(error)}); delete its folder to begin anew") from error
        for name in FIGURES:
            setattr(tile, name, figures[name])
