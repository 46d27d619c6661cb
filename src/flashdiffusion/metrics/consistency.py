"""How well a restored image explains its measurement, which needs no true image."""

import torch
from torch import Tensor

from flashdiffusion.metrics.registry import Measured, Metric, register


def consistency(x: Tensor, problem: Measured) -> Tensor:
    """Compute the root mean square of A(x) - y over σ_y, (B,): 1 is as far from y as the true image is.

    Over the entries that were measured, in the units of y. More is inconsistent with y; less fits its noise. NaN where
    the noise is 0 or not told.
    """
    rows = problem.residual(x.to(problem.y.device)).flatten(1)
    squared, expected = torch.linalg.vector_norm(rows, dim=1).square() / rows.shape[1], problem.residual_variance
    return (squared / expected).sqrt().where(expected > 0, torch.nan)


_UNDEFINED = "it is in units of the noise, and noise std is 0 or not told"
register(Metric("consistency", "consistency", higher=None, fit=consistency, digits=2, undefined=_UNDEFINED))
