"""Results files read: one cell is one method measured on one task."""

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any

from flashdiffusion.data.files import cut
from flashdiffusion.errors import InputError
from flashdiffusion.jobs.records import summarise
from flashdiffusion.metrics import all_metrics
from flashdiffusion.record import NO_FIGURES, Record

LONGEST = 200  # bytes of an image file's name
CELLS = "*--*.json"  # results files in a folder of evaluate
IMAGES = "images"  # folder of what --save-images keeps, beside the results files
COST = {"nfe": ".1f", "gflop": ".0f", "seconds": ".2f"}  # decimals of what restoring cost


@dataclass(frozen=True)
class Cell:
    """One method on one task.

    method: its name, with its own settings if the run gave it some. about: everything in the results file but what
    follows. mean: of each figure over the images; empty if there is none. records: a row per image, by its id. failed:
    reasons by id. missing: why the method was not measured at all. path: the results file.
    """

    task: str
    method: str
    path: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    mean: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    missing: str | None = None

    def values(self, figure: str) -> dict[str, float]:
        """Finite values of a figure by image."""
        rows = {id: row.get(figure) for id, row in self.records.items()}
        return {id: float(value) for id, value in rows.items() if value is not None and math.isfinite(value)}

    def of(self, ids: Collection[str]) -> "Cell":
        """The same on these images alone, as far as they were measured."""
        records = {id: row for id, row in self.records.items() if id in ids}
        failed = {id: reason for id, reason in self.failed.items() if id in ids}
        mean = summarise([Record.from_json(row) for row in records.values()]) if records else {}
        return replace(self, records=records, failed=failed, mean=mean)

    @property
    def distances(self) -> Mapping[str, Mapping[str, Any]]:
        """Distances of all restored images from the true ones, by metric: value, images, and why there is none."""
        return self.about.get("distances") or {}

    def image(self, id: str, kind: str) -> Path | None:
        """File of an image that was kept: "clean", "measured", "estimate" or "restored"; None if there is none."""
        file = image_file(self.path, self.task, self.method, id, kind)
        return file if file.exists() else None


def figures() -> dict[str, str]:
    """Figures of a table, in order, with the decimals worth printing: quality, then cost."""
    return {name: f".{metric.digits}f" for name, metric in all_metrics().items()} | COST


def slug(text: str) -> str:
    """A name for files: letters, digits, points, and single dashes."""
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in text.lower()).split())


def cell_file(folder: Path, task: str, method: str) -> Path:
    """Results file of a cell."""
    return folder / f"{file_name(task)}--{slug(method)}.json"


def image_file(results: Path, task: str, method: str, id: str, kind: str) -> Path:
    """File of an image that is kept beside a results file; in a folder of `evaluate`, methods share what is not theirs.

    Args:
        kind: "clean", "measured", "estimate" or "restored".
    """
    shared = results == cell_file(results.parent, task, method)
    folder = results.parent / IMAGES / file_name(task) if shared else results.parent / f"{results.stem}-{IMAGES}"
    return folder / (slug(method) if shared and kind == "restored" else kind) / f"{file_name(id)}.png"


def file_name(id: str) -> str:
    """An image's id as the name of a file, another for every id, and none too long."""
    name = id.translate({ord(c): f"%{ord(c):02X}" for c in "%/\\"})
    if len(os.fsencode(name)) <= LONGEST:
        return name
    return f"{cut(name, LONGEST - 17)}-{hashlib.blake2b(os.fsencode(id), digest_size=8).hexdigest()}"


def read_cell(path: Path) -> Cell | None:
    """Read a results file of `evaluate`; None for JSON of another kind.

    Raises:
        InputError: it cannot be read, or is no JSON.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; expected a results file of `flashdiffusion evaluate`") from error
    if not isinstance(content, dict) or not {"task", "method"} <= content.keys():
        return None
    if not ("records" in content or "missing" in content):
        return None
    try:
        mean, missing = content.pop("mean", {}), content.pop("missing", None)
        records = {row["id"]: _checked(row) for row in content.pop("records", [])}
        failed = {row["id"]: str(row["reason"]) for row in content.pop("failed", [])}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: records or failures that `flashdiffusion evaluate` does not write") from error
    return Cell(str(content["task"]), str(content["method"]), path, content, mean, records, failed, missing)


def cells_in(folder: Path) -> list[Cell]:
    """Read the results files of one folder of `evaluate`; raises InputError as `read_cell`."""
    return [cell for file in sorted(folder.glob(CELLS)) if (cell := read_cell(file)) is not None]


def _checked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record; raises TypeError if its id is no text, or a figure no number."""
    figures = [value for key, value in row.items() if key not in NO_FIGURES]
    if not (isinstance(row["id"], str) and all(isinstance(one, (int, float, NoneType)) for one in figures)):
        raise TypeError("no text, or no number")
    return row


def read_cells(places: Iterable[Path]) -> list[Cell]:
    """Read the results files given, and those that folders hold, nested ones too.

    Raises:
        InputError: a place that does not exist, or without any results; a file that cannot be read.
    """
    cells: list[Cell] = []
    for place in places:
        if not place.exists():
            raise InputError(f"{place} does not exist; expected a folder or file that `flashdiffusion evaluate` wrote")
        files = sorted(place.rglob("*.json")) if place.is_dir() else [place]
        found = [cell for file in files if (cell := read_cell(file)) is not None]
        if not found:
            raise InputError(f"{place} holds no results of `flashdiffusion evaluate`; expected its --out folder")
        cells += found
    return cells
