"""How sure a mean is, and whether one method is better than another on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest, bootstrap

from flashdiffusion.errors import InputError, check_name
from flashdiffusion.metrics import get_metric, ranked_metrics
from flashdiffusion.reports.cells import Cell, figures

RESAMPLES, BATCH = 4000, 500  # BATCH of them are in memory at once
TRIAL = 30  # images below which a comparison is a trial, not a result


def interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The bootstrap 95 % interval of a mean; of one value, that value twice.

    Raises:
        InputError: no values.
    """
    if not len(values):
        raise InputError("no values to take an interval of; expected at least one")
    sample = np.asarray(values, dtype=float)
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    generator = np.random.default_rng(seed)
    found = bootstrap((sample,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=generator, batch=BATCH)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


@dataclass(frozen=True)
class Figure:
    """Mean of a figure over `count` images, with its bootstrap 95 % interval low to high."""

    mean: float
    low: float
    high: float
    count: int


def figures_of(cell: Cell) -> dict[str, Figure]:
    """Every figure of a cell, over the images that have it."""
    values = {name: list(cell.values(name).values()) for name in figures()}
    return {name: Figure(float(np.mean(own)), *interval(own), len(own)) for name, own in values.items() if own}


@dataclass(frozen=True)
class Comparison:
    """A method against another on the same images of a task.

    difference: mean of its figure less the other's, with its bootstrap 95 % interval low to high. wins, losses: images
    on which it is better, and worse; ties count as neither. sign_test: how likely so uneven a count is if neither is
    better (two-sided binomial test).
    """

    task: str
    metric: str
    method: str
    other: str
    images: int
    difference: float
    low: float
    high: float
    wins: int
    losses: int
    sign_test: float

    @property
    def better(self) -> bool:
        """Whether its mean is better and the interval does not hold 0."""
        return self.low > 0 if get_metric(self.metric).higher else self.high < 0

    @property
    def mean_is_better(self) -> bool:
        """Whether its mean is better, however sure that is."""
        return (self.difference > 0) == bool(get_metric(self.metric).higher) and self.difference != 0

    @property
    def win_rate(self) -> float:
        """Share of the images on which it is better."""
        return self.wins / self.images

    def turned(self) -> "Comparison":
        """The other against this one, without drawing again."""
        swapped = replace(self, method=self.other, other=self.method, wins=self.losses, losses=self.wins)
        return replace(swapped, difference=-self.difference, low=-self.high, high=-self.low)


def compare_cells(cell: Cell, other: Cell, metric: str, seed: int = 0) -> Comparison | None:
    """Compare two methods on the images that both have a figure of; None if there are none.

    Images of one id whose content differs (`digest`) are not the same.

    Raises:
        InputError: no metric of that name, one of which neither more nor less is better, or cells of different tasks.
    """
    check_name("metric to compare by", metric, ranked_metrics())
    if cell.task != other.task:
        raise InputError(f"{cell.path} is of {cell.task} and {other.path} of {other.task}; expected the same task")
    sign = 1 if get_metric(metric).higher else -1
    own, others = cell.values(metric), other.values(metric)
    gains = np.array([own[id] - others[id] for id in own if id in others and _same(cell, other, id)])
    if not len(gains):
        return None
    low, high = interval(gains, seed)
    wins, losses = int((sign * gains > 0).sum()), int((sign * gains < 0).sum())
    return Comparison(
        *(cell.task, metric, cell.method, other.method, len(gains), float(gains.mean()), low, high, wins, losses),
        sign_test=float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
    )


def _same(cell: Cell, other: Cell, id: str) -> bool:
    """Whether both measured the same image by this id, as far as they say."""
    digests = {one.records[id].get("digest") for one in (cell, other)} - {None}
    return len(digests) < 2
