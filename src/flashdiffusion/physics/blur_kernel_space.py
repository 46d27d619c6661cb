"""Nonlinear blur of the published blur-kernel-space network."""

from collections.abc import Callable, Hashable
from functools import lru_cache
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from flashdiffusion.errors import InputError, sized
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, Size
from flashdiffusion.physics.kernel_wizard import CODE_CHANNELS, STRIDE, KernelWizard
from flashdiffusion.physics.registry import Form, register_physics

Network = Callable[[Tensor, Tensor], Tensor]  # (images, codes) -> blurred images
CODE_STD = 1.2  # of the random kernel codes in "Diffusion Posterior Sampling" (Chung et al., ICLR 2023)


class BlurKernelSpace(BatchedPhysics):
    """y = clip(G(x, code), 0, 1) with G a blur-kernel-space network (Tran et al., CVPR 2021).

    This is the nonlinear blur of DPS and of the paper; `CameraShake` needs no weights.

    Args:
        network: G, images (B, 3, H, W) in [0, 1] and codes -> blurred images; `KernelWizard.from_file(path)`
            reads the published one.
        code: kernel codes (B, 512, H / 128, W / 128).
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: codes of another shape, or images that are not 128 times as large as the codes.
    """

    name = "blur-kernel-space"

    def __init__(self, network: Network, code: Tensor, noise_std: NoiseStd = 0.05) -> None:
        if code.ndim != 4 or code.shape[1] != CODE_CHANNELS or not bool(code.isfinite().all()):
            raise InputError(
                f"kernel code of shape {tuple(code.shape)}; expected finite numbers (B, {CODE_CHANNELS}, "
                f"H / {STRIDE}, W / {STRIDE})"
            )
        self.network = network
        super().__init__({"code": code}, noise_std)

    @classmethod
    def draw(
        cls, network: Network, count: int, size: Size, generator: torch.Generator, noise_std: NoiseStd = 0.05
    ) -> Self:
        """Draw codes from N(0, 1.2²) for `count` images of `size` (H, W)."""
        shape = (count, CODE_CHANNELS, size[0] // STRIDE, size[1] // STRIDE)
        return cls(network, CODE_STD * torch.randn(shape, generator=generator, device=generator.device), noise_std)

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        raise InputError(f"{cls.name} needs its network; use BlurKernelSpace(KernelWizard.from_file(path), code)")

    def describe(self) -> list[dict[str, float | str]]:
        spread = self.params["code"].float().square().mean(dim=(1, 2, 3)).sqrt().tolist()
        return [{"physics": self.name, "code_rms": round(s, 4)} for s in spread]

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        code = self.params["code"]
        if tuple(x.shape[2:]) != (STRIDE * code.shape[2], STRIDE * code.shape[3]) or 0 in code.shape:
            raise InputError(
                f"images of {sized(*x.shape[2:])} with a kernel code of {code.shape[2]} x "
                f"{code.shape[3]}; expected sides of {STRIDE} pixels per entry of the code"
            )
        weights = self.network.parameters() if isinstance(self.network, nn.Module) else iter(())
        like = next(weights, x)  # the network's own precision
        codes = code.to(x.device, like.dtype).expand(len(x), -1, -1, -1)
        return self.network(x.to(like.dtype), codes).to(x.dtype).clamp(0, 1)

    def to(self, device: torch.device | str) -> BatchedPhysics:
        network = self.network.to(device) if isinstance(self.network, nn.Module) else self.network
        return self._map(lambda value: value.to(device))._with(network=network)

    @property
    def kind(self) -> Hashable:
        return super().kind, id(self.network)


@lru_cache(maxsize=1)  # all images of a command share the network
def _network(path: Path) -> KernelWizard:
    return KernelWizard.from_file(path)


def _from_file(weights: Path, size: Size, generator: torch.Generator, noise_std: NoiseStd) -> BatchedPhysics:
    return BlurKernelSpace.draw(_network(weights), 1, size, generator, noise_std)


register_physics(BlurKernelSpace, forms=[Form(_from_file, drawn="the kernel code")])
