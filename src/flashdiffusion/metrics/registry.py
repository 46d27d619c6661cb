"""Metrics, their registry, and those that a run can measure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from flashdiffusion.errors import InputError, check_name

# Images in [0, 1], restored and true, (B, 3, H, W) x 2 -> (B,).
Compare = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Metric:
    """A figure of quality.

    higher: whether more is better. heading: its column in a table. smallest: side in pixels below which an image has
    no such figure. digits: decimals worth printing. load: for a metric with weights, which are given as a file:
    makes `compare` from it; then there is no other `compare`.
    """

    name: str
    heading: str
    higher: bool
    compare: Compare | None = None
    smallest: int = 1
    digits: int = 3
    load: Callable[[str | Path], Compare] | None = None


METRICS: dict[str, Metric] = {}
_FIRST = ("psnr", "ssim", "lpips")  # in tables; others follow as they were registered


def register(metric: Metric) -> Metric:
    """Register a metric for every comparison of images; raises InputError unless it has either `compare` or `load`."""
    if (metric.compare is None) == (metric.load is None):
        raise InputError(f"metric {metric.name} has compare {metric.compare} and load {metric.load}; expected one")
    METRICS[metric.name] = metric
    return metric


def all_metrics() -> dict[str, Metric]:
    """Return all metrics by name: PSNR, SSIM, LPIPS, then the others in order of registration."""
    return {name: METRICS[name] for name in dict.fromkeys((*_FIRST, *METRICS))}


def get_metric(name: str) -> Metric:
    """Return the metric of this name; raises InputError if there is none."""
    known = all_metrics()
    check_name("metric", name, known)
    return known[name]


@dataclass(frozen=True)
class Quality:
    """Figures of one image by metric, and why others are missing."""

    values: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


class Metrics:
    """Metrics ready to measure: those without weights, and those whose weights are given.

    Args:
        weights: weights file by the metric's name.

    Raises:
        InputError: no such metric, or one without weights.
        CheckpointError: a file that does not hold them.
    """

    def __init__(self, weights: Mapping[str, str | Path] | None = None) -> None:
        self.compare: dict[str, Compare] = {}
        weights = weights or {}
        for name, file in weights.items():
            if get_metric(name).load is None:
                raise InputError(f"metric {name} needs no weights; leave out {file}")
        for name, metric in all_metrics().items():
            if metric.compare is not None:
                self.compare[name] = metric.compare
            elif metric.load is not None and name in weights:
                self.compare[name] = metric.load(weights[name])

    @torch.no_grad()
    def __call__(self, restored: Tensor, truth: Tensor) -> Quality:
        """Measure one image, (3, H, W) x 2 in [0, 1]."""
        quality = Quality()
        height, width = truth.shape[1:]
        for name, compare in self.compare.items():
            if min(height, width) < (smallest := get_metric(name).smallest):
                quality.missing[name] = f"the image is {width}x{height}; {name} needs sides of {smallest} pixels"
            else:
                quality.values[name] = float(compare(restored[None], truth[None]))
        return quality

    @property
    def nets(self) -> dict[str, str]:
        """Network of each metric that names its own: `{"lpips_net": "alex"}`."""
        nets = {f"{name}_net": getattr(compare, "net", None) for name, compare in self.compare.items()}
        return {name: net for name, net in nets.items() if net is not None}
