"""A first estimate of x for linear measurements that are no images: a few steps of least squares."""

from collections.abc import Callable

import torch
from torch import Tensor

ITERATIONS = 10
GREY = 0.5  # where nothing is measured the estimate stays mid-grey


@torch.no_grad()
def least_squares(
    A: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor], y: Tensor, iterations: int = ITERATIONS
) -> Tensor:
    """Find argmin_x ‖A(x) - y‖², per image, by conjugate gradients on the normal equations from mid-grey (CGLS).

    Stopping early is what regularises: directions that A hardly sees, and that noise would fill, are not entered.

    Args:
        A: images (B, C, H, W) -> measurements, linear.
        adjoint: its adjoint.
        y: measurements (B, ...).
        iterations: steps, each one call of A and one of the adjoint.

    Returns:
        Images (B, C, H, W), not clipped.
    """
    x = torch.full_like(adjoint(y), GREY)
    residual = y - A(x)
    gradient = adjoint(residual)
    direction, squared = gradient, _dot(gradient, gradient)
    for _ in range(iterations):
        measured = A(direction)
        step = squared / _dot(measured, measured).clamp(min=1e-30)
        x = x + _as(step, x) * direction
        residual = residual - _as(step, residual) * measured
        gradient = adjoint(residual)
        now = _dot(gradient, gradient)
        direction = gradient + _as(now / squared.clamp(min=1e-30), gradient) * direction
        squared = now
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1)


def _as(values: Tensor, like: Tensor) -> Tensor:
    """Shape values (B,) to be multiplied with `like` (B, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))
