"""Unconditional UNets, of latents or of pixels (LDM, DDPM)."""

from typing import cast

from diffusers import UNet2DModel
from torch import Tensor

from flashdiffusion.priors.denoisers.base import Denoiser, register_denoiser


@register_denoiser
class UNet(Denoiser):
    """diffusers' UNet2DModel, called with timesteps 0..N-1."""

    network = UNet2DModel

    @property
    def unit(self) -> int:
        return 2 ** (len(self.config.block_out_channels) - 1)

    @property
    def tokens(self) -> None:
        return None

    def predict(self, z: Tensor, times: Tensor, *told: Tensor) -> Tensor:
        return cast(Tensor, self.model(z, times).sample)
