"""The runs of each task side by side: their names, their figures with intervals, all their comparisons."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from flashdiffusion.metrics import all_metrics, ranked_metrics
from flashdiffusion.reports.cells import Cell, figures
from flashdiffusion.reports.statistics import Comparison, Figure, compare_cells, figures_of

NOT_TOLD = {"command", "environment"}  # of what a run says of itself: too long for a name
NAMED = 3  # differences that a name has room for


@dataclass(frozen=True)
class Run:
    """A cell among those of its task: its number there, from 1, and a name that no other has."""

    number: int
    label: str
    cell: Cell
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def unlike(self, other: "Run") -> list[str]:
        """Of what makes a measurement, that in which another run differs: then both restored other measurements."""
        own, others = self.cell.about, other.cell.about
        return [name for name in ("noise_std", "seed") if own.get(name) != others.get(name)]


@dataclass(frozen=True)
class TaskRuns:
    """All runs of a task. columns: figures that occur, with the decimals worth printing."""

    name: str
    runs: Sequence[Run]
    columns: Mapping[str, str]

    @property
    def metrics(self) -> list[str]:
        """Figures of quality that occur."""
        return [name for name in self.columns if name in ranked_metrics()]

    @property
    def measured(self) -> list[Run]:
        """Runs with images."""
        return [run for run in self.runs if run.cell.records]

    def best(self, figure: str) -> str | None:
        """The best mean as printed, so that equal ones are all best; None without two to choose from, or a better."""
        means = [run.figures[figure].mean for run in self.runs if figure in run.figures]
        if len(means) < 2 or (figure in all_metrics() and figure not in ranked_metrics()):
            return None
        higher = figure in ranked_metrics() and ranked_metrics()[figure].higher
        return format((max if higher else min)(means), self.columns[figure])

    def compared(self) -> dict[tuple[int, int], dict[str, Comparison]]:
        """Every run against every other on the images of both, by their numbers and the metric."""
        found: dict[tuple[int, int], dict[str, Comparison]] = {}
        for one, other in combinations(self.measured, 2):
            pairs = {name: compare_cells(one.cell, other.cell, name) for name in self.metrics}
            both = {name: pair for name, pair in pairs.items() if pair is not None}
            found[one.number, other.number] = both
            found[other.number, one.number] = {name: pair.turned() for name, pair in both.items()}
        return found


def by_task(cells: Iterable[Cell]) -> list[TaskRuns]:
    """Group cells by task, in the order in which they come; a file that is given twice counts once."""
    tasks: dict[str, list[Cell]] = {}
    for cell in {cell.path.resolve(): cell for cell in cells}.values():
        tasks.setdefault(cell.task, []).append(cell)
    return [_task(name, its) for name, its in tasks.items()]


def _task(name: str, cells: Sequence[Cell]) -> TaskRuns:
    runs = [
        Run(number, label, cell, figures_of(cell))
        for number, (label, cell) in enumerate(zip(labels(cells), cells, strict=True), 1)
    ]
    columns = {name: digits for name, digits in figures().items() if any(name in run.figures for run in runs)}
    return TaskRuns(name, runs, columns)


def labels(cells: Sequence[Cell]) -> list[str]:
    """Name each run by its method; those of the same method also by the settings that differ, or by their files."""
    found = [cell.method for cell in cells]
    for method in set(found):
        alike = [i for i, cell in enumerate(cells) if cell.method == method]
        if len(alike) > 1:
            for i, told in zip(alike, _told_apart([cells[i] for i in alike]), strict=True):
                found[i] = f"{method}, {told}"
    return found


def _told_apart(cells: Sequence[Cell]) -> list[str]:
    about = [flat({key: value for key, value in cell.about.items() if key not in NOT_TOLD}) for cell in cells]
    differ = [key for key in dict.fromkeys(chain(*about)) if len({str(one.get(key)) for one in about}) > 1]
    told = [", ".join(f"{key} {one.get(key)}" for key in differ) for one in about]
    if len(differ) <= NAMED and len(set(told)) == len(told):
        return told
    paths = [cell.path.resolve() for cell in cells]
    top = Path(os.path.commonpath([path.parent for path in paths]))
    return [str(path.relative_to(top)) for path in paths]


def flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says of itself, by name: an entry's entries stand beside the others."""
    found: dict[str, Any] = {}
    for key, value in about.items():
        found |= flat(value) if isinstance(value, dict) else {key: value}
    return found
