"""What an evaluation came to: means with their intervals, and every method against every other."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from flashdiffusion.data.files import write_bytes, write_json
from flashdiffusion.errors import counted
from flashdiffusion.metrics import METRICS, headings, ranked_metrics
from flashdiffusion.metrics.distribution import DISTRIBUTIONS
from flashdiffusion.record import plain
from flashdiffusion.reports.cells import COST, Cell, figures
from flashdiffusion.reports.statistics import TRIAL, Comparison, Figure, compare_cells, figures_of
from flashdiffusion.reports.tables import Table


@dataclass(frozen=True)
class Summary:
    """Cells of a folder, in the order in which they are to be shown."""

    cells: Sequence[Cell]

    @property
    def tasks(self) -> list[str]:
        """The tasks, in their order."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    @cached_property
    def figures(self) -> list[dict[str, Figure]]:
        """Means with intervals, of each cell."""
        return [figures_of(cell) for cell in self.cells]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every method against each one before it on the same task, by every metric that both have."""
        pairs = [(b, a) for a, b in combinations(self.cells, 2) if a.task == b.task]
        found = (compare_cells(own, other, metric) for own, other in pairs for metric in ranked_metrics())
        return [one for one in found if one is not None]

    def table(self, task: str, caption: str = "") -> Table:
        """The methods on a task, a row each: means, those of quality with their intervals, and distances."""
        own = [(cell, found) for cell, found in zip(self.cells, self.figures, strict=True) if cell.task == task]
        columns = {name: digits for name, digits in figures().items() if any(name in found for _, found in own)}
        distances = [name for name in DISTRIBUTIONS if any(name in cell.distances for cell, _ in own)]
        rows = []
        for cell, found in own:
            shown = [_shown(found.get(name), digits, name not in COST) for name, digits in columns.items()]
            rows.append([cell.method, str(len(cell.records)), *shown, *(_distance(cell, name) for name in distances)])
        named = headings(own[0][0].about)
        titles = [named.get(name, name) for name in columns] + [DISTRIBUTIONS[name].heading for name in distances]
        return Table(["method", "images", *titles], rows, caption)

    def write(self, folder: Path) -> None:
        """Write summary.json, summary.md, summary.csv, and records.jsonl: a line for each image of each cell."""
        write_bytes(folder / "summary.md", self._markdown().encode())
        write_json(folder / "summary.json", self.to_json())
        rows = [
            [cell.task, cell.method, str(one.count), name, *(f"{value:.6g}" for value in (one.mean, one.low, one.high))]
            for cell, found in zip(self.cells, self.figures, strict=True)
            for name, one in found.items()
        ]
        table = Table(["task", "method", "images", "figure", "mean", "low", "high"], rows)
        write_bytes(folder / "summary.csv", table.csv().encode())
        rows_of = [(cell, row) for cell in self.cells for row in cell.records.values()]
        lines = [json.dumps({"task": cell.task, "method": cell.method, **row}) for cell, row in rows_of]
        write_bytes(folder / "records.jsonl", "".join(f"{line}\n" for line in lines).encode())

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        rows = []
        for cell, found in zip(self.cells, self.figures, strict=True):
            row: dict[str, Any] = {"task": cell.task, "method": cell.method, "images": len(cell.records)}
            row |= {"failed": len(cell.failed)} | ({"missing": cell.missing} if cell.missing else {})
            row["figures"] = {name: _plain(asdict(one)) for name, one in found.items()}
            if (quality := cell.mean.get("severity_quality")) is not None:
                row["severity_quality"] = quality
            rows.append(row | ({"distances": cell.distances} if cell.distances else {}))
        pairs = [asdict(one) | {"better": one.better, "win_rate": one.win_rate} for one in self.comparisons]
        return {"cells": rows, "comparisons": [_plain(one) for one in pairs]}

    def _markdown(self) -> str:
        pages = []
        for task in self.tasks:
            own = [cell for cell in self.cells if cell.task == task]
            pages.append(f"## {task}\n\n{self.table(task).markdown()}")
            pages += [f"{cell.method}: left out: {cell.missing}\n" for cell in own if cell.missing]
            lost = {one["missing"] for cell in own for one in cell.distances.values() if one.get("missing")}
            pages += [f"{reason}\n" for reason in sorted(lost)]
            first = next((cell.method for cell in own if cell.records), None)
            if against := [one for one in self.comparisons if (one.task, one.other) == (task, first)]:
                pages.append(comparison_table(against).markdown())
        fewest = min((len(cell.records) for cell in self.cells if not cell.missing), default=0)
        if fewest < TRIAL:
            pages.append(f"Of {counted(fewest, 'image')}: a trial, not a result.\n")
        return "\n".join(pages)


def comparison_table(comparisons: Iterable[Comparison], caption: str = "") -> Table:
    """Comparisons, a row each."""
    rows = []
    for one in comparisons:
        digits = METRICS[one.metric].digits + 1
        spread = f"{one.difference:+.{digits}f} [{one.low:+.{digits}f}, {one.high:+.{digits}f}]"
        wins = f"{one.wins} of {one.images}"
        rows.append([f"{one.method} - {one.other}", METRICS[one.metric].heading, spread, wins, f"{one.sign_test:.2g}"])
    return Table(["", "metric", "mean difference", "better on", "sign test"], rows, caption)


def _shown(figure: Figure | None, digits: str, with_interval: bool) -> str:
    if figure is None:
        return "-"
    mean, low, high = (f"{value:{digits}}" for value in (figure.mean, figure.low, figure.high))
    return f"{mean} [{low}, {high}]" if with_interval else mean


def _distance(cell: Cell, name: str) -> str:
    value = cell.distances.get(name, {}).get("value")
    return "-" if value is None else f"{value:.{DISTRIBUTIONS[name].digits}f}"


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: plain(value) for key, value in values.items()}
