"""Metrics, their registry, and those that a run can measure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from flashdiffusion.errors import FlashDiffusionError, InputError, check_name, sized


class Measured(Protocol):
    """Measurements with their physics; a `solvers.Problem` is one."""

    @property
    def y(self) -> Tensor:
        """The measurements, (B, ...)."""

    @property
    def residual_variance(self) -> Tensor:
        """The mean squared residual at the true image, (B,)."""

    def residual(self, x: Tensor) -> Tensor:
        """Compare A(x) with y; 0 where nothing was measured."""


# Images in [0, 1], restored and true, (B, 3, H, W) x 2 -> (B,).
Compare = Callable[[Tensor, Tensor], Tensor]
# Restored images in [0, 1] and what was measured of the true ones, (B, 3, H, W) -> (B,).
Fit = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class Metric:
    """A figure of quality.

    higher: whether more is better; None where neither is. heading: its column in a table. smallest: side in pixels
    below which an image has no such figure. digits: decimals worth printing.

    One of these makes it. compare: from the true image. load: for a metric with weights, which are given as a file or a
    name: makes `compare` from it. fit: from the measurement and its physics, a `Measured`, without a true image.

    net: the network that the heading need not name. undefined: why an image has no such figure where it is NaN.
    """

    name: str
    heading: str
    higher: bool | None
    compare: Compare | None = None
    smallest: int = 1
    digits: int = 3
    load: Callable[[str | Path], Compare] | None = None
    fit: Fit | None = None
    net: str | None = None
    undefined: str = "it is not a number"


METRICS: dict[str, Metric] = {}
_FIRST = ("psnr", "ssim", "lpips")  # in tables; others follow as they were registered


def register(metric: Metric) -> Metric:
    """Register a metric; raises InputError unless it has one of `compare`, `load` and `fit`."""
    made_by = {"compare": metric.compare, "load": metric.load, "fit": metric.fit}
    if sum(one is not None for one in made_by.values()) != 1:
        given = ", ".join(f"{key} {one}" for key, one in made_by.items())
        raise InputError(f"metric {metric.name} has {given}; expected one of them")
    METRICS[metric.name] = metric
    return metric


def all_metrics() -> dict[str, Metric]:
    """Return all metrics by name: PSNR, SSIM, LPIPS, then the others in order of registration."""
    return {name: METRICS[name] for name in dict.fromkeys((*_FIRST, *METRICS))}


def ranked_metrics() -> dict[str, Metric]:
    """Return those by which one image is better than another, in the same order."""
    return {name: metric for name, metric in all_metrics().items() if metric.higher is not None}


def get_metric(name: str) -> Metric:
    """Return the metric of this name; raises InputError if there is none."""
    known = all_metrics()
    check_name("metric", name, known)
    return known[name]


def headings(nets: Mapping[str, Any]) -> dict[str, str]:
    """Column of every metric by its name; with the network, where it is not the usual one: "LPIPS (vgg)".

    Args:
        nets: what a run measured with, see `Metrics.nets`; anything else in it is ignored.
    """
    used = {name: nets.get(f"{name}_net") or metric.net for name, metric in all_metrics().items()}
    return {
        name: metric.heading if used[name] == metric.net else f"{metric.heading} ({used[name]})"
        for name, metric in all_metrics().items()
    }


@dataclass(frozen=True)
class Quality:
    """Figures of one image by metric, and why others are missing."""

    values: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


class Metrics:
    """Metrics ready to measure: those without weights, and those whose weights are given.

    Args:
        weights: weights by the metric's name: a file, or what else the metric's `load` takes.

    Raises:
        InputError: no such metric, or one without weights.
        CheckpointError: a file that does not hold them.
    """

    def __init__(self, weights: Mapping[str, str | Path] | None = None) -> None:
        self.compare: dict[str, Compare] = {}
        self.fit: dict[str, Fit] = {}
        weights = weights or {}
        for name, file in weights.items():
            if get_metric(name).load is None:
                raise InputError(f"metric {name} needs no weights; leave out {file}")
        for name, metric in all_metrics().items():
            if metric.fit is not None:
                self.fit[name] = metric.fit
            elif metric.compare is not None:
                self.compare[name] = metric.compare
            elif metric.load is not None and name in weights:
                self.compare[name] = metric.load(weights[name])

    @torch.no_grad()
    def __call__(self, restored: Tensor, truth: Tensor | None = None, problem: Measured | None = None) -> Quality:
        """Measure one image (3, H, W) in [0, 1] by what is known of it: the true image, and its measurement.

        Args:
            problem: of this one image, on whatever device.
        """
        quality = Quality()
        if truth is not None:
            for name, compare in self.compare.items():
                _measure(quality, name, compare, restored[None], truth[None])
        if problem is not None:
            for name, fit in self.fit.items():
                _measure(quality, name, fit, restored[None], problem)
        return quality

    @property
    def nets(self) -> dict[str, str]:
        """Network of each metric that names its own: `{"lpips_net": "alex"}`."""
        nets = {f"{name}_net": getattr(compare, "net", None) for name, compare in self.compare.items()}
        return {name: net for name, net in nets.items() if net is not None}


def _measure(quality: Quality, name: str, call: Callable[[Tensor, Any], Tensor], x: Tensor, other: Any) -> None:
    """Add the figure of image x, or why there is none."""
    metric, (height, width) = get_metric(name), x.shape[2:]
    if min(height, width) < metric.smallest:
        quality.missing[name] = f"the image has {sized(height, width)}; {name} needs sides of {metric.smallest} pixels"
        return
    try:
        value = float(call(x, other))
    except FlashDiffusionError as error:  # of a physics, say: the image is restored all the same
        quality.missing[name] = f"{name}: {error}"
        return
    if value != value:  # NaN
        quality.missing[name] = f"{name}: {metric.undefined}"
    else:
        quality.values[name] = value
