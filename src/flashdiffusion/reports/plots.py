"""Plots of a task as SVG, drawn by matplotlib; their text takes the page's font and colour."""

import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flashdiffusion.metrics import all_metrics
from flashdiffusion.reports.runs import Run, TaskRuns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

INK = "#123456"  # stands for the colour of the page's text, which a plot cannot know
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#d62728", "#9467bd", "#a0694f", "#e377c2", "#7f7f7f", "#a6a61d", "#17a2b8")
STYLE = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.15, "grid.color": INK},
    **{"svg.fonttype": "none", "svg.hashsalt": "flashdiffusion", "text.parse_math": False, "font.size": 10},
    **{"figure.constrained_layout.use": True},
}
WIDTH, HEIGHT = 4.6, 3.2  # inches: text of 10 points is as large as the page's small text on a telephone
TICKS = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
TOUCHING = 12  # dots (72 per inch) between points whose numbers would lie on each other
BINS = 30
WIDE = 8  # ratio of an axis' ends from which it is logarithmic


def colour(run: Run) -> str:
    """The colour of a run in all plots of its task."""
    return COLOURS[(run.number - 1) % len(COLOURS)]


def plots(task: TaskRuns, name: str) -> Iterator[tuple[str, str]]:
    """Titles and SVG of all plots that there are figures for; `name` starts the ids in them, unique on the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Drawing

    drawn = 0
    with rc_context(STYLE):
        for title, height, draw in _wanted(task):
            figure = Drawing(figsize=(WIDTH, height))
            draw(figure)
            drawn += 1
            yield title, _svg(figure, f"{name}-{drawn}")


def _wanted(task: TaskRuns) -> Iterator[tuple[str, float, Any]]:
    """Title, height and painter of each plot."""
    for metric in ("lpips", "psnr"):
        if runs := [run for run in task.runs if {"nfe", metric} <= run.figures.keys()]:
            heading = all_metrics()[metric].heading
            better = "higher" if all_metrics()[metric].higher else "lower"
            yield f"{heading} ({better} is better) against NFE", HEIGHT, lambda d, r=runs, m=metric: _cost(d, r, m)
    for figure, title in (("start_step", "Start step of each image"), ("nfe", "NFE of each image")):
        values = [(run, list(run.cell.values(figure).values())) for run in task.runs]
        if spread := [(run, its) for run, its in values if len(set(its)) > 1]:
            yield title, 0.8 + 0.4 * len(spread), lambda d, s=spread, f=figure: _histograms(d, s, f)
    if severities := _severities(task.runs):
        yield "Severity, predicted and true", HEIGHT, lambda d: _severity(d, severities)


def _cost(drawing: "Drawing", runs: Sequence[Run], metric: str) -> None:
    axes = drawing.add_subplot()
    for run in runs:
        x, y = run.figures["nfe"], run.figures[metric]
        across, up = ([[one.mean - one.low], [one.high - one.mean]] for one in (x, y))
        axes.errorbar(x.mean, y.mean, up, across, fmt="o", markersize=5, color=colour(run), elinewidth=1.2)
    reached = [run.figures["nfe"] for run in runs]
    low, high = min(f.low for f in reached), max(f.high for f in reached)
    if high > WIDE * max(low, 1):  # a few steps beside hundreds
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        _ticks(axes.xaxis, [0, *(tick for tick in TICKS if tick >= 1)], low * 0.8 - 0.1, high * 1.3)
    _number(axes, [(run, run.figures["nfe"].mean, run.figures[metric].mean) for run in runs])
    axes.set_xlabel("NFE")
    axes.set_ylabel(all_metrics()[metric].heading)


def _ticks(axis: Any, ticks: Sequence[float], low: float, high: float) -> None:
    """Limits of an axis that is not linear, and those of the ticks that are within them."""
    ticks = [tick for tick in ticks if low <= tick <= high]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)
    axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})


def _number(axes: "Axes", points: Sequence[tuple[Run, float, float]]) -> None:
    """Write the numbers of runs beside their points; those of points that all but touch stand together."""
    together: list[tuple[float, float, list[int]]] = []
    for run, x, y in points:
        place = axes.transData.transform((x, y))
        near = [its for a, b, its in together if np.hypot(*(axes.transData.transform((a, b)) - place)) < TOUCHING]
        if near:
            near[0].append(run.number)
        else:
            together.append((x, y, [run.number]))
    for i, (x, y, numbers) in enumerate(sorted(together)):  # above and below by turns, for those side by side
        text = ", ".join(map(str, numbers))
        axes.annotate(text, (x, y), (5, -11 if i % 2 else 4), textcoords="offset points", fontsize=9)


def _histograms(drawing: "Drawing", spread: Sequence[tuple[Run, list[float]]], figure: str) -> None:
    """A row for each run: how many images have which whole number."""
    every = [value for _, values in spread for value in values]
    low, high = int(min(every)), int(max(every))
    edges = np.arange(low, high + 2 + (width := -(-(high - low + 1) // BINS)), width) - 0.5
    rows = drawing.subplots(len(spread), sharex=True, squeeze=False)[:, 0]
    for axes, (run, values) in zip(rows, spread, strict=True):
        axes.hist(values, edges, color=colour(run))
        axes.set_ylabel(str(run.number), rotation=0, ha="right", va="center")
        axes.set_yticks([])
    rows[-1].set_xlabel({"start_step": "start step", "nfe": "NFE"}[figure])


def _severities(runs: Sequence[Run]) -> dict[tuple[Any, ...], list[Run]]:
    """Pairs of true and predicted severity, and the runs that have them all: methods share a severity encoder."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        predicted, true = run.cell.values("severity"), run.cell.values("true_severity")
        if pairs := tuple((true[id], predicted[id]) for id in predicted if id in true):
            found.setdefault(pairs, []).append(run)
    return found


def _severity(drawing: "Drawing", severities: dict[tuple[Any, ...], list[Run]]) -> None:
    axes = drawing.add_subplot()
    every = np.array([pair for pairs in severities for pair in pairs])
    for pairs, runs in severities.items():
        label = ", ".join(str(run.number) for run in runs)
        axes.plot(*zip(*pairs, strict=True), "o", markersize=4, alpha=0.6, color=colour(runs[0]), label=label)
    if every.max() > WIDE * every.min() > 0:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            _ticks(axis, TICKS, every.min() / 1.2, every.max() * 1.2)
    axes.axline((every.min(),) * 2, (every.max(),) * 2, color=INK, linewidth=1, linestyle=":")
    axes.set_xlabel("true severity")
    axes.set_ylabel("predicted severity")
    axes.legend(frameon=False)


def _svg(drawing: "Drawing", name: str) -> str:
    """The drawing as an element of a page: ids of its own, text in the page's colour."""
    stream = io.StringIO()
    drawing.savefig(
        stream, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    text = stream.getvalue()
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    return text.replace(INK, "currentColor")
