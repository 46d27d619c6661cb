"""A grid search over a method's hyperparameters on one task, resumable after a kill at any moment."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashdiffusion.errors import InputError
from flashdiffusion.jobs.measuring import Evaluated
from flashdiffusion.jobs.records import plain, summarise
from flashdiffusion.methods import Settings
from flashdiffusion.metrics import all_metrics, get_metric


@dataclass(frozen=True)
class Trial:
    """Settings, and the means that they reached."""

    settings: Settings
    mean: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"settings": dict(self.settings), "mean": dict(self.mean)}


def combinations(grid: Mapping[str, Sequence[Any]], base: Settings) -> list[Settings]:
    """Every combination of the grid's values; `base` is what the grid does not vary."""
    return [base | dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def search(
    trials: Iterable[Settings], measure: Callable[[Settings], Mapping[str, Any]], done: Iterable[Trial] = ()
) -> Iterator[Trial]:
    """A trial of each settings; those that are `done` are given back as they are.

    Args:
        measure: settings -> means; settings that the solver refuses raise InputError.
    """
    known = {trial.settings: trial for trial in done}
    for settings in trials:
        yield known.get(settings) or Trial(settings, {key: plain(v) for key, v in measure(settings).items()})


def means(images: Iterable[Evaluated]) -> dict[str, Any]:
    """What a trial reached: means of every number, but no figures of quality if an image was not restored.

    An image that cannot be read is left out of every trial alike.
    """
    records, restored = [], True
    for one in images:
        restored = restored and (one.record is not None or one.clean is None)
        if one.record is not None:
            records.append(one.record)
    numbers = {key: value for key, value in summarise(records).items() if isinstance(value, (int, float))}
    return numbers if restored else numbers | dict.fromkeys(all_metrics())


def best(trials: Sequence[Trial], objective: str) -> Trial:
    """The trial that is best by the metric `objective`; one whose images diverged never is.

    Raises:
        InputError: no such metric, or no trial has a finite figure.
    """
    sign = -1 if get_metric(objective).higher else 1
    figures = [(trial.mean.get(objective), n) for n, trial in enumerate(trials)]
    scored = [(sign * figure, n) for figure, n in figures if figure is not None]
    if not scored:
        raise InputError(f"no trial has a finite {objective}; expected one that did not diverge: try smaller steps")
    return trials[min(scored)[1]]
