"""Least squares by Adam for a batch of images, each of which leaves as soon as its own residual is small enough."""

from collections.abc import Callable

import torch
from torch import Tensor

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def minimise(
    start: Tensor,
    residual_of: Callable[[Tensor], Callable[[Tensor], Tensor]],
    target: Tensor,
    learning_rate: float,
    iterations: int,
    proximal: float,
    gradient_of: Callable[[Tensor, Tensor], Tensor] = lambda value, u: torch.autograd.grad(value, u)[0],
) -> tuple[Tensor, Tensor]:
    """Find argmin_u mean(residual(u)²) + λ mean((u - start)²), per image.

    Adam (Kingma & Ba 2015) written out, since torch's cannot let single rows of a parameter go.

    Args:
        start: where to begin, and the proximal term's anchor, (B, ...); it is not changed.
        residual_of: rows still at work (int64 indices) -> the function from their u to their residuals; called anew
            when rows leave.
        target: an image is done when its mean squared residual is at most this, (B,).
        proximal: λ >= 0.
        gradient_of: derivative of a number; the problem's own says whose fault it is if it fails.

    Returns:
        The minimisers, and how often the residual of each was evaluated with its gradient, int64 (B,).
    """
    result = start.clone()
    anchor = start.clone()
    evaluations = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    rows = torch.arange(len(start), device=start.device)
    u, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    residual = residual_of(rows)
    for step in range(1, iterations + 1):
        with torch.enable_grad():
            variable = u.requires_grad_()
            misfit = residual(variable).flatten(1).square().mean(dim=1)
            distance = (variable - anchor[rows]).flatten(1).square().mean(dim=1)
            gradient = gradient_of((misfit + proximal * distance).sum(), variable)
        evaluations[rows] += 1
        u = u.detach()
        active = misfit.detach() > target[rows]
        if not bool(active.all()):
            result[rows[~active]] = u[~active]
            rows, u, first, second = rows[active], u[active], first[active], second[active]
            gradient = gradient[active]
            if len(rows) == 0:
                return result, evaluations
            residual = residual_of(rows)
        # The gradient of a mean is small where there are many entries; Adam's step does not depend on its scale.
        first = _BETA1 * first + (1 - _BETA1) * gradient
        second = _BETA2 * second + (1 - _BETA2) * gradient.square()
        scale = (second / (1 - _BETA2**step)).sqrt() + _EPSILON
        u = u - learning_rate * (first / (1 - _BETA1**step)) / scale
    result[rows] = u
    return result, evaluations
