"""Noise of measurements: Gaussian, and a camera's, which grows with the light."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.errors import InputError

NoiseStd = float | Sequence[float] | Tensor
_LEAST_GAIN = 1e-12  # stands for 0, where nothing is counted


def add_noise(y: Tensor, std: Tensor, generator: torch.Generator | None = None, gain: Tensor | None = None) -> Tensor:
    """Add Gaussian noise of std (1,) or (B,) to y (B, ...); with a gain (B,) `shot_noise` comes first.

    It is drawn in float32 on the generator's device (the CPU without one), so that a seed means the same noise for any
    device and precision of y.
    """
    counted = y if gain is None else shot_noise(y, gain, generator)
    noise = torch.randn(y.shape, generator=generator, device=generator.device if generator else "cpu").to(y)
    return counted + std.to(y).view(-1, *[1] * (y.ndim - 1)) * noise


def shot_noise(y: Tensor, gain: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw gain · Poisson(y / gain) for y (B, ...) and gains (B,): its mean is y, its variance gain · y.

    Where the gain is 0, and where y is negative, there is none. It is drawn on the generator's device.
    """
    device = generator.device if generator else "cpu"
    light = y.detach().to(device, torch.float64)
    scale = gain.to(light).view(-1, *[1] * (y.ndim - 1))
    counted = scale * torch.poisson(light.clamp(min=0) / scale.clamp(min=_LEAST_GAIN), generator)
    return torch.where((scale > 0) & (light > 0), counted, light).to(y)


def entry_std(y: Tensor, std: Tensor, gain: Tensor | None) -> Tensor:
    """Standard deviation of the noise of each entry of A(x) = y (B, ...), of std and gain (B,); broadcasts to y."""
    constant = std.to(y).view(-1, *[1] * (y.ndim - 1))
    if gain is None:
        return constant
    return (constant.square() + gain.to(y).view_as(constant) * y.clamp(min=0)).sqrt()


def mean_variance(y: Tensor, std: Tensor, gain: Tensor | None) -> Tensor:
    """Mean variance of the noise of measurements y (B, ...), of std and gain (1,) or (B,); (B,)."""
    variance = std.to(y).square().expand(len(y))
    return variance if gain is None else variance + gain.to(y) * y.flatten(1).mean(dim=1).clamp(min=0)


def numbers(what: str, value: Any, expected: str, dtype: torch.dtype | None = None) -> Tensor:
    """Convert numbers to a tensor; raises InputError, on `what`, for what holds no real numbers."""
    try:
        tensor = torch.as_tensor(value)
        if tensor.is_complex():
            raise TypeError("complex")
        return torch.as_tensor(value, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} is {value!r:.80}; expected {expected}") from error


def checked_noise(noise_std: NoiseStd, scale_of_images: bool = True) -> Tensor:
    """Convert noise levels to float64 (n,) on the CPU.

    Raises:
        InputError: one that is no number, negative or not finite, or above 1 on the scale of images.
    """
    expected = "a number >= 0, or one per image; estimate_noise_std(y) gives that of measurements that are images"
    std = numbers("noise std", noise_std, expected, torch.float64).cpu().flatten()
    if not bool((std.isfinite() & (std >= 0)).all()):
        shown = std.tolist() if len(std) > 1 else float(std)
        raise InputError(f"noise std is {shown}; expected a finite number >= 0")
    if scale_of_images and bool((std > 1).any()):
        high = float(std.max())
        raise InputError(
            f"noise std is {high:g}; expected the [0, 1] scale of images, where {high:g} of 255 is {high / 255:.4g}"
        )
    return std
