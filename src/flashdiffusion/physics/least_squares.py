"""Least squares for linear operators, each image for itself: conjugate gradients, and the norm of an operator."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

ITERATIONS = 10
GREY = 0.5  # where nothing is measured the estimate stays mid-grey
POWER_ITERATIONS = 12
SLACK = 1e-3  # by which rounding may raise the misfit from one step to the next
Operator = Callable[[Tensor], Tensor]


@torch.no_grad()
def least_squares(
    A: Operator,
    adjoint: Operator,
    y: Tensor,
    iterations: int = ITERATIONS,
    start: Tensor | None = None,
    target: Tensor | None = None,
    proximal: float | Tensor = 0.0,
    anchor: Tensor | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """Find argmin_x ‖A(x) - y‖² + λ ‖x - anchor‖², per image, by conjugate gradients on the normal equations (CGLS).

    Stopping early is what regularises: directions that A hardly sees, and that noise would fill, are not entered.

    Args:
        A: images (B, C, H, W) -> measurements, linear.
        adjoint: its adjoint.
        y: measurements (B, ...).
        iterations: steps at most, each one call of A and one of the adjoint.
        start: where to begin, mid-grey if not given.
        target: an image is done when ‖A(x) - y‖² is at most this, (B,): the noise explains the rest.
        proximal: λ >= 0, one number or one per image.
        anchor: `start` if not given.
        seen: A(start), where it is known.

    Returns:
        Images (B, C, H, W), not clipped: of each the best iterate. Warns where steps led away from y, as they do if
        `adjoint` is not the adjoint of A.
    """
    x = torch.full_like(adjoint(y), GREY) if start is None else start
    weight = torch.as_tensor(proximal, dtype=y.dtype, device=y.device).flatten()
    anchor, residual = x if anchor is None else anchor, y - (A(x) if seen is None else seen)
    gradient = adjoint(residual) - _as(weight, x) * (x - anchor)
    direction, squared = gradient, _dot(gradient, gradient)
    solved = squared * (10 * torch.finfo(y.dtype).eps) ** 2  # rounding would carry further steps away
    best, strayed = x, torch.zeros_like(squared, dtype=torch.bool)
    least = _dot(residual, residual) + weight * _dot(x - anchor, x - anchor)
    for _ in range(iterations):
        measured = A(direction)
        step = squared / (_dot(measured, measured) + weight * _dot(direction, direction)).clamp(min=1e-30)
        step = step * (squared > solved)
        if target is not None:
            step = step * (_dot(residual, residual) > target)
        x = x + _as(step, x) * direction
        residual = residual - _as(step, residual) * measured
        misfit = _dot(residual, residual) + weight * _dot(x - anchor, x - anchor)
        strayed |= misfit > least * (1 + SLACK)  # not where it is NaN: that is for the caller to say
        best = torch.where(_as(misfit < least, x), x, best)
        least = least.minimum(misfit.nan_to_num(nan=torch.inf))
        gradient = adjoint(residual) - _as(weight, x) * (x - anchor)
        now = _dot(gradient, gradient)
        direction = gradient + _as(now / squared.clamp(min=1e-30), gradient) * direction
        squared = now
    if bool(strayed.any()):
        rows = strayed.nonzero()[:, 0].tolist()
        warnings.warn(
            f"least squares strayed from the measurements of images {rows} of this batch, and the best that it found "
            "is used: is A_adjoint the adjoint of A, and A what the physics says it is?",
            stacklevel=2,
        )
    return best


@torch.no_grad()
def operator_norm(A: Operator, adjoint: Operator, like: Tensor, iterations: int = POWER_ITERATIONS) -> Tensor:
    """Estimate ‖A‖₂, (B,), by power iteration on AᵀA from an image of noise like `like` (B, C, H, W)."""
    noise = torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(0))
    image = noise.to(like).expand_as(like)
    for _ in range(iterations):
        image = adjoint(A(image / _as(_dot(image, image).sqrt().clamp(min=1e-30), image)))
    return _dot(image, image).sqrt().sqrt()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1)


def _as(values: Tensor, like: Tensor) -> Tensor:
    """Shape values (B,) to be multiplied with `like` (B, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))
