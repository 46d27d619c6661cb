"""A function as a physics."""

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from flashdiffusion.errors import InputError, is_out_of_memory
from flashdiffusion.physics.base import BatchedPhysics
from flashdiffusion.physics.noise import NoiseStd, add_noise, checked_noise
from flashdiffusion.types import Physics

USE_TORCH = 'write it with torch functions, or take a method that needs no gradient, such as "ae"'
NEEDS_TORCH = f"it is written with numpy, and this method needs its gradient: {USE_TORCH}"


def takes_arrays(function: Callable[..., Any], x: Any) -> bool:
    """Tell whether a function that failed with a tensor x gives an array when it is given one."""
    try:
        return isinstance(function(x.detach().cpu().numpy()), np.ndarray)
    except Exception:  # it fails for a reason of its own
        return False


class Operator:
    """y = A(x) + n with a function of images (B, 3, H, W), the same for every image; linear with an `adjoint`.

    A function of numpy arrays will do where no gradient is needed. One that is found to be linear, with measurements of
    the shape of the images, needs no adjoint: it is autograd's.

    Args:
        A: images in [0, 1] -> measurements, differentiable; rows of a batch must not depend on each other.
        adjoint: measurements -> images, exactly Aᵀ, if A is linear.
        noise_std: σ_y on the [0, 1] scale, one number or one per image; None if it is not known.

    Raises:
        InputError: a noise_std that is negative, not finite or above 1.
    """

    def __init__(
        self, A: Callable[[Any], Any], adjoint: Callable[[Any], Any] | None = None, noise_std: NoiseStd | None = 0.05
    ) -> None:
        self.name = getattr(A, "__name__", type(A).__name__)
        self.noise_std = None if noise_std is None else checked_noise(noise_std)
        self.A: Callable[[Tensor], Tensor] = partial(self._call, A)
        if adjoint is not None:
            self.A_adjoint: Callable[[Tensor], Tensor] = partial(self._call, adjoint)

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A(x) + n, n ~ N(0, noise_std² I), see `add_noise`; A(x) if the noise is not known."""
        return self.A(x) if self.noise_std is None else add_noise(self.A(x), self.noise_std, generator)

    def completed(self, like: Tensor) -> "Operator":
        """The same with its adjoint, if it lacks one and proves linear on images of this shape, (B, C, H, W)."""
        if hasattr(self, "A_adjoint") or like.ndim != 4 or not _is_linear(self.A, like[:1].detach().float()):
            return self
        whole = copy(self)
        whole.A_adjoint = partial(_pulled_back, self.A)
        return whole

    def _call(self, function: Callable[[Any], Any], x: Tensor) -> Tensor:
        try:
            y = function(x)
        except Exception as error:  # whatever a function of arrays raises when it is given a tensor
            if is_out_of_memory(error) or not takes_arrays(function, x):
                raise
            y = function(x.detach().cpu().numpy())
        if isinstance(y, np.ndarray):
            if x.requires_grad:
                raise InputError(f"operator {self.name}: {NEEDS_TORCH}")
            y = torch.from_numpy(np.ascontiguousarray(y)).to(x)
        if not isinstance(y, Tensor):
            raise InputError(f"operator {self.name} gives a {type(y).__name__}; expected a tensor")
        return y


def _is_linear(function: Callable[[Tensor], Tensor], like: Tensor) -> bool:
    """Tell whether a function of images like these is linear, with values of their shape and a gradient."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(like.shape, generator=generator).to(like) for _ in range(2))
    try:
        with torch.enable_grad():
            values = [function(x.requires_grad_()) for x in (a.clone(), b.clone(), 2 * a - 0.5 * b)]
        found = all(value.shape == like.shape and value.requires_grad for value in values)
        return found and torch.allclose(values[2], 2 * values[0] - 0.5 * values[1], rtol=1e-4, atol=1e-5)
    except Exception as error:  # whatever a function raises that is for other images, or has no gradient
        if is_out_of_memory(error):
            raise
        return False


def _pulled_back(function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """Aᵀy of a linear function with values of the shape of its images."""
    with torch.enable_grad():
        at = torch.zeros_like(y, requires_grad=True)
        value = function(at)
    return torch.autograd.grad(value, at, y, create_graph=torch.is_grad_enabled() and y.requires_grad)[0]


def as_physics(physics: Any, y: Tensor) -> Physics:
    """Take a physics for measurements y (B, ...): a function is wrapped, one of ours for a single image serves all.

    Raises:
        InputError: neither a function nor an object with `A(x)`.
    """
    if isinstance(physics, BatchedPhysics):
        return physics.expand(len(y))
    if isinstance(physics, type):
        name = physics.__name__
        raise InputError(f"physics is the class {name}; expected one with its parameters, {name}(...)")
    if hasattr(physics, "A"):
        return physics.completed(y) if isinstance(physics, Operator) else cast(Physics, physics)
    if not callable(physics):
        own = "Blur(kernel) if it is a kernel, " if hasattr(physics, "shape") else ""
        raise InputError(
            f"physics is a {type(physics).__name__}; expected {own}an object with A(x), such as GaussianBlur(2.0), or "
            "a function x -> A(x)"
        )
    return Operator(physics, noise_std=None).completed(y)
