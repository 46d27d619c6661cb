"""Reading the log of a training run."""

import csv
from pathlib import Path


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a stage's CSV log, without their empty cells."""
    with path.open(newline="") as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]
