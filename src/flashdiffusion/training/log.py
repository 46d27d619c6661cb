"""The CSV log of a training run."""

import csv
from pathlib import Path
from typing import Any

from flashdiffusion.data import atomic_path


class CsvLog:
    """Rows by step; columns grow as new ones appear, and the file is whole at any moment."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: dict[str, Any]) -> None:
        """Add a row in place of all rows from its step on: a killed run may have logged more than it saved."""
        rows = [*(r for r in self._rows() if int(r["step"]) < row["step"]), row]
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list({key: None for r in rows for key in r}))
            writer.writeheader()
            writer.writerows(rows)

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as stream:
            return list(csv.DictReader(stream))
