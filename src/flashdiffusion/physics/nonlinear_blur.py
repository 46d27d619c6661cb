"""Nonlinear blur: a shaken camera with a response curve."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, expect_params, per_image
from flashdiffusion.physics.convolution import convolve

RADIUS = 15  # pixels; a trajectory is scaled down where it would leave the kernel
GAMMA = 2.2
_STEPS = 64  # of the random walk
_POINTS = 8  # per step, when it is drawn into the kernel
_INERTIA = 0.9
_DARKEST = 1e-6  # below it the response's slope is taken as constant: it is infinite at 0


class CameraShake(BatchedPhysics):
    """What a camera records while it moves: response(mean over the trajectory of inverse response(x)).

    The image is linearised by x^γ, averaged along the trajectory, and x^(1/γ) is applied again, clipped to [0, 1];
    it needs no weights, unlike the blur-kernel-space network. Borders are reflected.

    Args:
        kernel: share of the exposure at each offset, (B, 1, 31, 31), non-negative, sum 1.
        gamma: exponent γ > 0 of the response, one number or (B,).
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a kernel or gamma that is none, or an image too small to reflect.
    """

    name = "nonlinear-blur"

    def __init__(self, kernel: Tensor, gamma: float | Tensor = GAMMA, noise_std: NoiseStd = 0.05) -> None:
        check_kernel(kernel)
        gamma = torch.as_tensor(gamma, dtype=kernel.dtype, device=kernel.device).expand(len(kernel))
        if not bool((gamma.isfinite() & (gamma > 0)).all()):
            raise InputError(f"gamma is {gamma.tolist()}; expected finite numbers > 0")
        super().__init__({"kernel": kernel, "gamma": gamma.clone()}, noise_std)

    @classmethod
    def from_std(cls, std: Tensor, generator: torch.Generator, noise_std: NoiseStd = 0.05) -> Self:
        """Draw a trajectory per image whose standard deviation along an axis is `std` pixels (B,).

        Raises:
            InputError: a std that is negative or above 10.
        """
        return cls(draw_kernels(std, generator), GAMMA, noise_std)

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        expect_params(cls.name, params, "kernel", "gamma")
        return cls(params["kernel"], params["gamma"], noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        return [{"physics": self.name, "std": round(s, 4)} for s in kernel_std(self.params["kernel"]).tolist()]

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        gamma = self.params["gamma"].to(x).view(-1, 1, 1, 1)
        light = x.clamp(0, 1).pow(gamma)
        return convolve(light, self.params["kernel"]).clamp(_DARKEST, 1).pow(1 / gamma)


def check_kernel(kernel: Tensor) -> None:
    """Raise InputError unless a kernel is (B, 1, 31, 31), non-negative and of sum 1 for every image."""
    side = 2 * RADIUS + 1
    if kernel.ndim != 4 or kernel.shape[1:] != (1, side, side):
        raise InputError(f"kernel of shape {tuple(kernel.shape)}; expected (B, 1, {side}, {side})")
    total = kernel.sum(dim=(1, 2, 3))
    if not bool((kernel >= 0).all()) or not torch.allclose(total, torch.ones_like(total), atol=1e-4):
        raise InputError("kernel is no distribution; expected values >= 0 that sum to 1 for every image")


def draw_kernels(std: Tensor, generator: torch.Generator) -> Tensor:
    """Kernels (B, 1, 31, 31) of random camera shakes: walks with inertia, drawn with bilinear weights.

    Raises:
        InputError: a std that is negative or above 10 pixels.
    """
    std = per_image("shake std", std)
    if std.ndim != 1 or not bool(((std >= 0) & (std <= 10)).all()):
        raise InputError(f"shake std is {std.tolist()}; expected numbers from 0 to 10 (pixels), one per image")
    push = torch.randn(len(std), _STEPS, 2, generator=generator, device=generator.device).to(std.device)
    velocity, walk = torch.zeros_like(push[:, 0]), []
    position = torch.zeros_like(velocity)
    for step in range(_STEPS):
        velocity = _INERTIA * velocity + push[:, step]
        position = position + velocity
        walk.append(position)
    path = F.interpolate(torch.stack(walk, dim=2), size=_STEPS * _POINTS, mode="linear", align_corners=True)
    path = path - path.mean(dim=2, keepdim=True)
    spread = path.square().mean(dim=(1, 2)).sqrt().view(-1, 1, 1)
    path = path * (std.view(-1, 1, 1) / spread)
    # One that would leave the kernel is scaled back into it.
    path = path * (RADIUS / path.abs().amax(dim=(1, 2), keepdim=True).clamp(min=RADIUS))
    return rasterise(path + RADIUS)


def rasterise(path: Tensor) -> Tensor:
    """Points (B, 2, T) in pixels -> (B, 1, 31, 31): each adds 1/T, shared by its four nearest pixels."""
    side = 2 * RADIUS + 1
    low = path.floor().clamp(0, side - 2)
    part = path - low
    row, column = low[:, 0].long(), low[:, 1].long()
    kernel = path.new_zeros(len(path), side * side)
    for down in (0, 1):
        for right in (0, 1):
            weight = (part[:, 0] if down else 1 - part[:, 0]) * (part[:, 1] if right else 1 - part[:, 1])
            kernel.scatter_add_(1, (row + down) * side + column + right, weight / path.shape[2])
    return kernel.view(-1, 1, side, side)


def kernel_std(kernel: Tensor) -> Tensor:
    """Standard deviation along an axis, in pixels, of kernels (B, 1, k, k): (B,)."""
    offset = torch.arange(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device) - kernel.shape[-1] // 2
    rows, columns = kernel.sum(dim=(1, 3)), kernel.sum(dim=(1, 2))
    variance = [(p * offset.square()).sum(1) - (p * offset).sum(1).square() for p in (rows, columns)]
    return ((variance[0] + variance[1]) / 2).clamp(min=0).sqrt()
