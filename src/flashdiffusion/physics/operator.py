"""A function as a physics."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from flashdiffusion.errors import InputError, is_out_of_memory
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, add_noise, checked_noise
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

    A function of numpy arrays will do where no gradient is needed.

    Args:
        A: images in [0, 1] -> measurements, differentiable; rows of a batch must not depend on each other.
        adjoint: measurements -> images, exactly Aᵀ, if A is linear.
        noise_std: σ_y on the [0, 1] scale, one number or one per image.

    Raises:
        InputError: a noise_std that is negative, not finite or above 1.
    """

    def __init__(
        self, A: Callable[[Any], Any], adjoint: Callable[[Any], Any] | None = None, noise_std: NoiseStd = 0.05
    ) -> None:
        self.name = getattr(A, "__name__", type(A).__name__)
        self.noise_std = checked_noise(noise_std)
        self.A: Callable[[Tensor], Tensor] = partial(self._call, A)
        if adjoint is not None:
            self.A_adjoint: Callable[[Tensor], Tensor] = partial(self._call, adjoint)

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A(x) + n, n ~ N(0, noise_std² I), see `add_noise`."""
        return add_noise(self.A(x), self.noise_std, generator)

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


def as_physics(physics: Any, count: int) -> Physics:
    """Take a physics for `count` images: a function is wrapped, one of ours for a single image serves them all.

    Raises:
        InputError: neither a function nor an object with `A(x)`.
    """
    if isinstance(physics, BatchedPhysics):
        return physics.expand(count)
    if isinstance(physics, type):
        name = physics.__name__
        raise InputError(f"physics is the class {name}; expected one with its parameters, {name}(...)")
    if hasattr(physics, "A"):
        return cast(Physics, physics)
    if not callable(physics):
        raise InputError(
            f"physics is a {type(physics).__name__}; expected an object with A(x), such as GaussianBlur(2.0), or a "
            "function x -> A(x)"
        )
    return Operator(physics, noise_std=0.0)
