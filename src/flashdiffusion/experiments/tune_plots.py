"""A search as pictures: what was reached when, by which settings, and at which cost."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import CategoricalDistribution

from flashdiffusion.data import atomic_path
from flashdiffusion.experiments.aim import Aim
from flashdiffusion.experiments.space import Plan
from flashdiffusion.experiments.tune import COMPLETE, OVER, PRUNED, Trial
from flashdiffusion.metrics import get_metric

# How trials of a state are drawn; those that failed have no objective.
_STYLES: dict[str, dict[str, Any]] = {
    COMPLETE: {"marker": "o", "color": "tab:blue", "label": "complete"},
    PRUNED: {"marker": "o", "facecolors": "none", "edgecolors": "tab:grey", "label": "pruned (estimated)"},
    OVER: {"marker": "^", "color": "tab:orange", "label": "over budget"},
}
COLUMNS, REACH = 4, 5  # panels beside each other at most; see `_clipped`


def plot_search(trials: Sequence[Trial], plan: Plan, aim: Aim, best: Trial | None, stem: Path) -> list[Path]:
    """Draw the objective over the trials, over each setting and over the cost; give the paths of the three PNGs.

    Trials far worse than most are drawn on a line at the edge.

    Args:
        stem: what their names begin with: STEM-trials.png, STEM-settings.png and STEM-cost.png.
    """
    shown, edge = _clipped(trials, aim, best)
    figures = {
        "trials": _trials(shown, aim, best),
        "settings": _settings(shown, plan, aim, best),
        "cost": _cost(shown, aim, best),
    }
    for axis in (axis for figure in figures.values() for axis in figure.axes):
        if edge is not None:
            axis.axhline(edge, color="tab:grey", linestyle=":", linewidth=1, label="this or worse", zorder=0)
    return [_save(figure, stem.with_name(f"{stem.name}-{kind}.png")) for kind, figure in figures.items()]


def _trials(trials: Sequence[Trial], aim: Aim, best: Trial | None) -> Figure:
    """The objective over the trials, with the best so far."""
    figure, (axis,) = _panels(1, aim, width=8.0)
    _scatter(axis, trials, best, range(1, len(trials) + 1))
    reached = [trial.objective if trial.state == COMPLETE else None for trial in trials]
    pick = max if aim.higher else min
    so_far = [pick((one for one in reached[:n] if one is not None), default=None) for n in range(1, len(trials) + 1)]
    known = [(n, value) for n, value in enumerate(so_far, start=1) if value is not None]
    if known:
        axis.step(*zip(*known, strict=True), where="post", color="tab:green", label="best so far", zorder=1)
    for number, trial in enumerate(trials, start=1):
        if trial.objective is None:
            axis.axvline(number, color="tab:red", alpha=0.4, linewidth=1, label="failed")
    axis.set(xlabel="trial", xlim=(0.5, len(trials) + 0.5))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _settings(trials: Sequence[Trial], plan: Plan, aim: Aim, best: Trial | None) -> Figure:
    """The objective over each setting that varied."""
    figure, axes = _panels(len(plan.space), aim)
    for axis, (name, over) in zip(axes, plan.space.items(), strict=True):
        places = [trial.settings[name] for trial in trials]
        if isinstance(over, CategoricalDistribution):
            places = [over.choices.index(place) for place in places]
            axis.set_xticks(range(len(over.choices)), [*map(str, over.choices)])
            axis.margins(x=0.2)
        elif getattr(over, "log", False):
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
        _scatter(axis, trials, best, places)
        axis.set_xlabel(name)
    return figure


def _cost(trials: Sequence[Trial], aim: Aim, best: Trial | None) -> Figure:
    """The objective over what an image costs, with the budget."""
    names = ["nfe", *(name for name in aim.budget if name != "nfe")]
    figure, axes = _panels(len(names), aim)
    for axis, name in zip(axes, names, strict=True):
        _scatter(axis, trials, best, [trial.mean.get(name) for trial in trials])
        axis.set_xlabel(f"{name.upper()} per image")
        if name in aim.budget:
            axis.axvline(aim.budget[name], color="tab:red", linestyle="--", linewidth=1, label="budget")
    return figure


def _clipped(trials: Sequence[Trial], aim: Aim, best: Trial | None) -> tuple[list[Trial], float | None]:
    """Bring trials to at most `REACH` times the median's distance from the best, and give that edge if any were beyond.

    So most are told apart.
    """
    known = [trial.objective for trial in trials if trial.objective is not None]
    if best is None or best.objective is None or not (reach := REACH * abs(median(known) - best.objective)):
        return [*trials], None
    edge, nearer = (best.objective - reach, max) if aim.higher else (best.objective + reach, min)
    shown = [one if one.objective is None else replace(one, objective=nearer(one.objective, edge)) for one in trials]
    return shown, edge if shown != [*trials] else None


def _panels(count: int, aim: Aim, width: float = 4.0) -> tuple[Figure, list[Any]]:
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(5.5, width * columns), 3.8 * rows), layout="constrained")
    axes = [*figure.subplots(rows, columns, sharey=True, squeeze=False).flat]
    for axis in axes[count:]:
        axis.remove()
    heading = aim.text if "=" in aim.text else get_metric(aim.text).heading
    for axis in axes[:count:columns]:
        axis.set_ylabel(f"{heading} ({'higher' if aim.higher else 'lower'} is better)")
    for axis in axes[:count]:
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
    return figure, axes[:count]


def _scatter(axis: Any, trials: Sequence[Trial], best: Trial | None, places: Sequence[Any]) -> None:
    """The trials that have an objective, each by its state; the best is a star."""
    for state, style in _STYLES.items():
        shown = [(x, one.objective) for x, one in zip(places, trials, strict=True) if one.state == state]
        if shown:
            axis.scatter(*zip(*shown, strict=True), s=28, **style)
    if best is not None:
        place = places[[*trials].index(best)]
        axis.scatter(place, best.objective, s=130, marker="*", color="tab:green", label="best", zorder=3)


def _save(figure: Figure, path: Path) -> Path:
    drawn = [axis.get_legend_handles_labels() for axis in figure.axes]
    legend = {label: handle for handles, labels in drawn for handle, label in zip(handles, labels, strict=True)}
    figure.legend(legend.values(), legend.keys(), loc="outside upper center", ncols=6, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path
