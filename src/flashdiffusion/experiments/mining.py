"""Which images of a data set are hard? Severities, split into what the degradation and what the image contributes.

Every image is measured at the same levels of degradation. Of the severities s[i, l] of image i at level l

    log s[i, l] = mean + image[i] + level[l] + rest[i, l]

is the two-way analysis of variance without replication: each effect is a mean of what is left, and sums to 0.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError
from flashdiffusion.experiments.ordering import BATCH, level_name, severity_of
from flashdiffusion.physics.tasks import Measurements, Mixture, Task, measure
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.record import plain
from flashdiffusion.severity import true_severity

LEVELS = 5
# What images can be ranked by: their own effect on the severity that is predicted; the severity of the measurement that
# `evaluate` makes of them; their own effect on the true severity.
RANKS = ("image", "total", "true")


@dataclass(frozen=True)
class Conditions:
    """How images are measured: the same for all of them at each of the levels, and as `evaluate` would.

    values: what `ordering_values` gives. over: "level": the task's level is varied, at `noise_std`. "noise": σ_y is
    varied, each with an operator of its own drawn from the task.
    """

    task: Task | Mixture
    values: Sequence[float]
    over: str = "level"
    noise_std: float = 0.05
    seed: int = 0

    @property
    def varied(self) -> str:
        """What the levels are called."""
        return level_name(self.task, self.over)

    def at(self, level: int, x: Tensor) -> Measurements:
        """All images by one operator and with the same noise, so that they differ in nothing but themselves."""
        names, value = [f"level {level}"] * len(x), self.values[level]
        if self.over == "noise":
            return measure(x, names, self.task, value, self.seed)
        return measure(x, names, self.task, self.noise_std, self.seed, level=value)

    def drawn(self, x: Tensor, ids: Sequence[str]) -> Measurements:
        """Each image by the operator that the task draws for it, the measurements of `evaluate` with the same seed."""
        return measure(x, ids, self.task, self.noise_std, self.seed)


@dataclass(frozen=True)
class Mined:
    """What was measured of an image, or why nothing was.

    index: its place in the data. severities, true_severities: σ̂² and σ̄² at each level. total_severity: σ̂² of the
    measurement that `evaluate` makes. degradation: what it is made with.
    """

    index: int
    severities: Sequence[float] = ()
    true_severities: Sequence[float] = ()
    total_severity: float = math.nan
    degradation: Mapping[str, Any] | None = None
    failed: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What was measured, rounded to six significant digits."""
        return {
            "severities": [plain(one) for one in self.severities],
            "true_severities": [plain(one) for one in self.true_severities],
            "total_severity": plain(self.total_severity),
            "degradation": {key: plain(value) for key, value in (self.degradation or {}).items()},
        }


@torch.no_grad()
def measure_severities(
    pipeline: FlashPipeline, data: ImageDataset, conditions: Conditions, rows: Iterable[int], blind: bool = False
) -> Iterator[Mined]:
    """Each of these images of the data at every level, and as the task draws it; a batch of them is held at a time.

    Args:
        blind: whether the encoder sees the measurements alone, and is told nothing of their physics.

    Raises:
        InputError: a model without a severity encoder, or an operator that cannot be.
    """
    for own, clean, failed in data.batches(rows, BATCH):
        yield from (Mined(row, failed=reason) for row, reason in failed.items())
        if not own:
            continue
        z0 = pipeline.prior.encode(clean.to(pipeline.prior.device)).float()
        each = [severity_of(pipeline, conditions.at(n, clean), blind) for n in range(len(conditions.values))]
        predicted = torch.stack([one.var.float() for one in each], dim=1).cpu()
        true = torch.stack([true_severity(one.z_hat.float(), z0) for one in each], dim=1).cpu()
        drawn = conditions.drawn(clean, [data.ids[row] for row in own])
        total = severity_of(pipeline, drawn, blind).var.float().cpu()
        described = drawn.physics.describe()
        usable = torch.cat([predicted, true, total[:, None]], dim=1).log().isfinite().all(dim=1)
        for n, row in enumerate(own):
            if usable[n]:
                yield Mined(row, predicted[n].tolist(), true[n].tolist(), float(total[n]), described[n])
            else:
                yield Mined(row, failed=f"its severities are {predicted[n].tolist()}; expected finite numbers above 0")


@dataclass(frozen=True)
class Split:
    """Severities as mean * images[i] * levels[l] * rest, all as ratios; see above.

    mean: geometric mean. images: (n,). levels: (m,). shares: of the variance of log severity, what levels and images
    explain, and what is left; NaN if nothing varies.
    """

    mean: float
    images: Tensor
    levels: Tensor
    shares: Mapping[str, float]

    @classmethod
    def of(cls, severities: Tensor) -> "Split":
        """Split severities (images, levels), all above 0."""
        logs = severities.double().log()
        mean = logs.mean()
        images, levels = logs.mean(dim=1) - mean, logs.mean(dim=0) - mean
        rest = logs - mean - images[:, None] - levels
        parts = {"level": levels.expand_as(rest), "image": images[:, None].expand_as(rest), "rest": rest}
        squares = {name: part.square().sum() for name, part in parts.items()}
        shares = {name: float(one / (logs - mean).square().sum()) for name, one in squares.items()}
        return cls(float(mean.exp()), images.exp(), levels.exp(), shares)


class Mining:
    """The severities of a data set, and what they are made of.

    Args:
        rows: `Mined.to_json` of at least one image, each with its `id`.
        places: of each image in its data.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], places: Sequence[int]) -> None:
        self.places = places
        self.ids = [row["id"] for row in rows]
        self.severities = torch.tensor([row["severities"] for row in rows])
        self.total = torch.tensor([row["total_severity"] for row in rows])
        self.predicted = Split.of(self.severities)
        self.true = Split.of(torch.tensor([row["true_severities"] for row in rows]))

    def scores(self, by: str) -> Tensor:
        """What images are ranked by, one of `RANKS`, (n,)."""
        return {"image": self.predicted.images, "total": self.total, "true": self.true.images}[by]

    def order(self, by: str) -> list[int]:
        """Rows, the hardest first."""
        return self.scores(by).argsort(descending=True, stable=True).tolist()

    def table(self, order: Sequence[int], conditions: Conditions) -> list[dict[str, Any]]:
        """A row per image in this order; total_severity is the mean of all * image_effect * degradation_effect."""
        names = [f"severity_{conditions.varied}_{value:g}" for value in conditions.values]
        mean = self.predicted.mean * self.predicted.images
        columns = {
            "image_effect": self.predicted.images,
            "true_image_effect": self.true.images,
            "mean_severity": mean,
            "total_severity": self.total,
            "degradation_effect": self.total / mean,
        } | dict(zip(names, self.severities.T, strict=True))
        values = {name: column.tolist() for name, column in columns.items()}
        return [
            {"rank": rank, "id": self.ids[row]} | {name: plain(column[row]) for name, column in values.items()}
            for rank, row in enumerate(order, start=1)
        ]

    def summary(self, conditions: Conditions) -> dict[str, Any]:
        """Shares of the variance, effects of the levels, percentiles of those of the images, predicted and true."""
        from torchmetrics.functional.regression import spearman_corrcoef

        predicted, true = _described(self.predicted, conditions), _described(self.true, conditions)
        if len(self.ids) > 2:
            predicted["spearman"] = plain(float(spearman_corrcoef(self.predicted.images, self.true.images)))
        return {"images": len(self.ids), **predicted, "true": true}


def _described(split: Split, conditions: Conditions) -> dict[str, Any]:
    percentiles = torch.quantile(split.images, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return {
        "mean_severity": plain(split.mean),
        "shares": {name: plain(share) for name, share in split.shares.items()},
        "levels": [
            {conditions.varied: value, "effect": plain(effect)}
            for value, effect in zip(conditions.values, split.levels.tolist(), strict=True)
        ],
        "image_effect": dict(zip(("p10", "p50", "p90"), map(plain, percentiles), strict=True)),
    }


def how_many(text: str, total: int) -> int:
    """Images that a count such as "50" or a share such as "10%" of `total` stands for; a share is rounded up.

    Raises:
        InputError: neither, none, or more than there are.
    """
    number = text.strip().removesuffix("%")
    percent = number != text.strip()
    try:
        value = float(number) if percent else int(number)
    except ValueError:
        value = math.nan
    if not 0 < value <= (100 if percent else total):
        raise InputError(
            f"keep-hardest is {text}; expected a count from 1 to {total}, the number of images, or a share above 0% "
            "and at most 100%"
        )
    return math.ceil(total * value / 100) if percent else int(value)
