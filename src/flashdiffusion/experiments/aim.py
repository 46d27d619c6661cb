"""What a search is after: the best figure, within a budget."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Self

from flashdiffusion.errors import InputError
from flashdiffusion.metrics import get_metric


@dataclass(frozen=True)
class Aim:
    """A metric, or a weighted sum of metrics that is minimised; and what an image may cost in the mean.

    text: as it was given. weights: by metric. higher: whether more is better. budget: limits by `nfe` and `gflop`.
    """

    text: str
    weights: Mapping[str, float]
    higher: bool = False
    budget: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, measured: Collection[str], budget: Mapping[str, float | None]) -> Self:
        """Read `lpips`, or `lpips=1 psnr=-0.01`.

        A weight whose sign would make worse images win is refused.

        Args:
            measured: the metrics that are measured.
            budget: limits; those that are None do not count.

        Raises:
            InputError: no such metric or one that is not measured, a wrong weight, or a limit that is none.
        """
        weights = {text.strip(): 1.0} if "=" not in text else _weights(text)
        for name in weights:
            if get_metric(name).higher is None:
                raise InputError(f"objective {text}: neither more {name} nor less is better; choose another metric")
            if get_metric(name).load is not None and name not in measured:
                raise InputError(
                    f"objective {text}: {name} needs weights; give --{name} FILE, or choose another metric"
                )
        limits = {name: limit for name, limit in budget.items() if limit is not None}
        for name, limit in limits.items():
            if not 0 < limit < math.inf:
                raise InputError(f"--max-{name} is {limit:g}; expected a finite number above 0")
        return cls(text.strip(), weights, "=" not in text and bool(get_metric(text.strip()).higher), limits)

    def value(self, row: Mapping[str, Any]) -> float | None:
        """The objective of an image, None if it has none that is finite.

        Raises:
            InputError: it is too small for a metric of the objective.
        """
        if lost := [reason for name, reason in (row.get("missing") or {}).items() if name in self.weights]:
            raise InputError(f"objective {self.text}: {lost[0]}; choose another metric")
        parts = [weight * row[name] for name, weight in self.weights.items() if row.get(name) is not None]
        return sum(parts) if len(parts) == len(self.weights) else None

    def mean(self, rows: Iterable[Mapping[str, Any]]) -> float | None:
        """The objective over images, None if one of them has none."""
        values = [self.value(row) for row in rows]
        return None if None in values or not values else fmean(value for value in values if value is not None)

    def excess(self, rows: Sequence[Mapping[str, Any]], count: int) -> dict[str, float]:
        """By how much images cost more than the budget allows, as a share of it; negative within it.

        Args:
            count: over how many images the mean is taken.
        """
        spent = {name: sum(row[name] for row in rows) / count for name in self.budget}
        return {name: spent[name] / limit - 1 for name, limit in self.budget.items()}


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for item in text.split():
        name, _, number = item.partition("=")
        higher = get_metric(name).higher
        if name in weights:
            raise InputError(f"objective {text}: {name} is given twice; expected once")
        try:
            weights[name] = weight = float(number)
        except ValueError as error:
            raise InputError(f"objective {item}; expected METRIC, or METRIC=WEIGHT for each of a sum") from error
        if not 0 < abs(weight) < math.inf:
            raise InputError(f"objective {item}; expected a finite weight that is not 0")
        if higher == (weight > 0):
            better, sign = ("more", "negative") if higher else ("less", "positive")
            raise InputError(
                f"objective {item}: a sum is minimised, and of {name} {better} is better; expected a {sign} weight: "
                f"{name}={-weight:g}"
            )
    return weights
