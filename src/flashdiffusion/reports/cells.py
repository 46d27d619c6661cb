"""Results files read: one cell is one method measured on one task."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from flashdiffusion.errors import InputError
from flashdiffusion.jobs.records import NO_FIGURES
from flashdiffusion.metrics import all_metrics

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

    def image(self, id: str, kind: str) -> Path | None:
        """File of an image that was kept: "clean", "measured", "estimate" or "restored"; None if there is none."""
        file = image_file(self.path.parent, self.task, slug(self.method), id, kind)
        return file if file.exists() else None


def figures() -> dict[str, str]:
    """Figures of a table, in order, with the decimals worth printing: quality, then cost."""
    return {name: f".{metric.digits}f" for name, metric in all_metrics().items()} | COST


def slug(text: str) -> str:
    """A name for files: letters, digits, points, and single dashes."""
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in text.lower()).split())


def cell_file(folder: Path, task: str, method: str) -> Path:
    """Results file of a cell."""
    return folder / f"{task}--{slug(method)}.json"


def image_file(folder: Path, task: str, method: str, id: str, kind: str) -> Path:
    """File of an image that is kept; all but what is restored is the same for every method.

    Args:
        method: its `slug`.
    """
    name = id.replace("/", "_").replace("\\", "_")
    return folder / IMAGES / task / (method if kind == "restored" else kind) / f"{name}.png"


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
