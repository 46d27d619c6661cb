"""Nonlinear blur: a shaken camera with a response curve."""

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, PerImage, between, per_image
from flashdiffusion.physics.kernel_blur import convolve, kernel_reach, kernel_std
from flashdiffusion.physics.registry import Form, register_physics
from flashdiffusion.physics.tasks import Task

RADIUS = 15  # pixels; a trajectory is scaled down where it would leave the kernel
GAMMA = 2.2
_STEPS = 64  # of the random walk
_POINTS = 8  # per step, rendered into the kernel
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
        InputError: a kernel of another shape or sum, a gamma that is not above 0, or an image too small to reflect.
    """

    name = "nonlinear-blur"

    def __init__(self, kernel: Tensor, gamma: PerImage = GAMMA, noise_std: NoiseStd = 0.05) -> None:
        check_kernel(kernel)
        exponent = per_image("gamma", gamma, "finite numbers > 0", between(1e-6, math.inf)).to(kernel)
        super().__init__({"kernel": kernel, "gamma": exponent}, noise_std)

    @classmethod
    def from_std(cls, std: PerImage, generator: torch.Generator, noise_std: NoiseStd = 0.05) -> Self:
        """Draw a path per image of standard deviation `std` pixels per axis; raises InputError outside [0, 10]."""
        return cls(draw_kernels(std, generator), GAMMA, noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        spread = kernel_std(self.params["kernel"]).tolist()
        return [about | {"std": round(std, 4)} for about, std in zip(super().describe(), spread, strict=True)]

    @property
    def halo(self) -> int:
        return kernel_reach(self.params["kernel"])

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        gamma = self.params["gamma"].to(x).view(-1, 1, 1, 1)
        light = x.clamp(0, 1).pow(gamma)
        return convolve(light, self.params["kernel"]).clamp(_DARKEST, 1).pow(1 / gamma)


def check_kernel(kernel: Tensor) -> None:
    """Raise InputError unless a kernel is (B, 1, 31, 31), non-negative and of sum 1 for every image."""
    side = 2 * RADIUS + 1
    if not isinstance(kernel, Tensor):
        raise InputError(f"kernel is {kernel!r:.80}; expected a tensor (B, 1, {side}, {side})")
    if kernel.ndim != 4 or kernel.shape[1:] != (1, side, side):
        raise InputError(f"kernel of shape {tuple(kernel.shape)}; expected (B, 1, {side}, {side})")
    total = kernel.sum(dim=(1, 2, 3))
    if not bool((kernel >= 0).all()) or not torch.allclose(total, torch.ones_like(total), atol=1e-4):
        raise InputError("kernel is not a distribution; expected values >= 0 that sum to 1 for every image")


def draw_kernels(std: PerImage, generator: torch.Generator) -> Tensor:
    """Draw kernels (B, 1, 31, 31) of random camera shakes: walks with inertia, rendered with bilinear weights.

    `std` is their standard deviation along an axis in pixels; raises InputError outside [0, 10].
    """
    std = per_image("shake std", std, "numbers from 0 to 10 (pixels)", between(0, 10)).float()
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
    # A path that would leave the kernel is scaled down to fit.
    path = path * (RADIUS / path.abs().amax(dim=(1, 2), keepdim=True).clamp(min=RADIUS))
    return rasterise(path + RADIUS)


def rasterise(path: Tensor) -> Tensor:
    """Render points (B, 2, T) in pixels to (B, 1, 31, 31): each adds 1/T, split among its four nearest pixels."""
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


register_physics(
    CameraShake,
    forms=[Form(CameraShake.from_std, drawn="the camera's path")],
    tasks=[Task("nonlinear-blur", "std", 0.5, 3.0, CameraShake.from_std, ordering=(0.0, 3.0))],
)
