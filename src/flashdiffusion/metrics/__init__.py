"""Image quality, per image: (B, 3, H, W) x 2 -> (B,), or of a whole run; and what a call costs.

A metric is one entry, `register(Metric(...))`, in a module here or in a user's own file; a metric of whole runs is
`register_distribution(Distribution(...))`.
"""

from importlib import import_module
from pkgutil import iter_modules

from flashdiffusion.metrics.consistency import consistency
from flashdiffusion.metrics.distribution import (
    Distance,
    Distribution,
    Distributions,
    distances,
    frechet,
    register_distribution,
)
from flashdiffusion.metrics.flops import count_gflop
from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.metrics.quality import psnr, ssim
from flashdiffusion.metrics.registry import (
    METRICS,
    Measured,
    Metric,
    Metrics,
    Quality,
    all_metrics,
    get_metric,
    headings,
    ranked_metrics,
    register,
)

__all__ = [
    "Distance",
    "Distribution",
    "Distributions",
    "LPIPS",
    "METRICS",
    "Measured",
    "Metric",
    "Metrics",
    "Quality",
    "all_metrics",
    "consistency",
    "count_gflop",
    "distances",
    "frechet",
    "get_metric",
    "headings",
    "psnr",
    "ranked_metrics",
    "register",
    "register_distribution",
    "ssim",
]

# Every file of this folder is read, so that one which registers something need not be named anywhere.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
