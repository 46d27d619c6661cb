"""What an evaluation came to: means with their intervals, and every method against every other."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from flashdiffusion.data.files import write_bytes, write_json
from flashdiffusion.jobs.records import plain
from flashdiffusion.metrics import METRICS, ranked_metrics
from flashdiffusion.reports.cells import COST, Cell, figures
from flashdiffusion.reports.statistics import TRIAL, Comparison, Figure, compare_cells, figures_of
from flashdiffusion.reports.tables import Table


def comparisons_of(cells: Sequence[Cell]) -> list[Comparison]:
    """Every method against each one before it on the same task, by every metric of quality that both have."""
    pairs = [(b, a) for a, b in combinations(cells, 2) if a.task == b.task]
    found = (compare_cells(own, other, metric) for own, other in pairs for metric in ranked_metrics())
    return [one for one in found if one is not None]


def summary_of(cells: Sequence[Cell]) -> dict[str, Any]:
    """All of it as JSON can hold it."""
    rows = []
    for cell in cells:
        row: dict[str, Any] = {"task": cell.task, "method": cell.method, "images": len(cell.records)}
        row |= {"failed": len(cell.failed)} | ({"missing": cell.missing} if cell.missing else {})
        row["figures"] = {name: _plain(asdict(one)) for name, one in figures_of(cell).items()}
        if (quality := cell.mean.get("severity_quality")) is not None:
            row["severity_quality"] = quality
        rows.append(row)
    pairs = [asdict(one) | {"better": one.better, "win_rate": one.win_rate} for one in comparisons_of(cells)]
    return {"cells": rows, "comparisons": [_plain(one) for one in pairs]}


def table_of(cells: Sequence[Cell], task: str, caption: str = "") -> Table:
    """The methods on a task, a row each: means, those of quality with their intervals."""
    own = [cell for cell in cells if cell.task == task]
    measured = [figures_of(cell) for cell in own]
    columns = [name for name in figures() if any(name in one for one in measured)]
    rows = []
    for cell, found in zip(own, measured, strict=True):
        shown = [_shown(found.get(name), figures()[name], with_interval=name not in COST) for name in columns]
        rows.append([cell.method, str(len(cell.records)), *shown])
    headings = [METRICS[name].heading if name in METRICS else name for name in columns]
    return Table(["method", "images", *headings], rows, caption)


def comparison_table(comparisons: Iterable[Comparison], caption: str = "") -> Table:
    """Comparisons, a row each."""
    rows = []
    for one in comparisons:
        digits = METRICS[one.metric].digits + 1
        spread = f"{one.difference:+.{digits}f} [{one.low:+.{digits}f}, {one.high:+.{digits}f}]"
        wins = f"{one.wins} of {one.images}"
        rows.append([f"{one.method} - {one.other}", METRICS[one.metric].heading, spread, wins, f"{one.sign_test:.2g}"])
    return Table(["", "metric", "mean difference", "better on", "sign test"], rows, caption)


def write_summary(folder: Path, cells: Sequence[Cell]) -> None:
    """Write summary.json, summary.md, summary.csv, and records.jsonl: a line for each image of each cell."""
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    compared = comparisons_of(cells)
    pages, lines = [], []
    for task in tasks:
        own = [cell for cell in cells if cell.task == task]
        pages.append(f"## {task}\n\n{table_of(own, task).markdown()}")
        pages += [f"{cell.method}: left out: {cell.missing}\n" for cell in own if cell.missing]
        if against := [one for one in compared if (one.task, one.other) == (task, own[0].method)]:
            pages.append(comparison_table(against).markdown())
    fewest = min((len(cell.records) for cell in cells if not cell.missing), default=0)
    if fewest < TRIAL:
        pages.append(f"Of {fewest} images: a trial, not a result.\n")
    write_bytes(folder / "summary.md", "\n".join(pages).encode())
    write_json(folder / "summary.json", summary_of(cells))
    long = [
        [cell.task, cell.method, str(one.count), name, *(f"{value:.6g}" for value in (one.mean, one.low, one.high))]
        for cell in cells
        for name, one in figures_of(cell).items()
    ]
    table = Table(["task", "method", "images", "figure", "mean", "low", "high"], long)
    write_bytes(folder / "summary.csv", table.csv().encode())
    for cell in cells:
        lines += [json.dumps({"task": cell.task, "method": cell.method, **row}) for row in cell.records.values()]
    write_bytes(folder / "records.jsonl", "".join(f"{line}\n" for line in lines).encode())


def _shown(figure: Figure | None, digits: str, with_interval: bool) -> str:
    if figure is None:
        return "-"
    mean, low, high = (f"{value:{digits}}" for value in (figure.mean, figure.low, figure.high))
    return f"{mean} [{low}, {high}]" if with_interval else mean


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: plain(value) for key, value in values.items()}
