"""What the figures share: panels, and lines with their intervals."""

from collections.abc import Sequence
from typing import Any

from flashdiffusion.metrics import METRICS
from flashdiffusion.reports.cells import Cell
from flashdiffusion.reports.statistics import figures_of

SIGMA = "σ̂, root of the severity"


def panels(count: int, width: float = 3.6, height: float = 3.2) -> tuple[Any, list[Any]]:
    """A figure with so many axes side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.25)
    return figure, list(axes)


def heading(figure: str) -> str:
    """What an axis of a figure is called."""
    return METRICS[figure].heading if figure in METRICS else figure.upper()


def draw(axis: Any, points: Sequence[tuple[float, Cell]], figure: str, label: str, **style: Any) -> None:
    """Draw a figure of cells over x, with 95 % intervals."""
    shown = [(x, found[figure]) for x, cell in points if figure in (found := figures_of(cell))]
    if not shown:
        return
    xs, values = zip(*shown, strict=True)
    means = [one.mean for one in values]
    spread = [[one.mean - one.low for one in values], [one.high - one.mean for one in values]]
    axis.errorbar(xs, means, yerr=spread, marker="o", markersize=4, capsize=2, linewidth=1.4, label=label, **style)
    axis.set_ylabel(heading(figure))
