"""A model of photographs of any size, untrained, whose estimate is the measurement itself."""

import torch
from diffusers import DDPMScheduler, UNet2DModel

from flashdiffusion import FlashPipeline
from flashdiffusion.priors import LatentPrior, PatchAutoencoder
from flashdiffusion.severity import PatchSeverityEncoder

UNET = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
    "add_attention": False,
    "norm_num_groups": 4,
}


def local_pipeline() -> FlashPipeline:
    """Make it; the same each time. Without attention; `ae` gives each place what was measured there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder = PatchAutoencoder(2)
        denoiser = UNet2DModel(in_channels=12, out_channels=12, **UNET)
        scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02)
        # Without interpolation of lost pixels, which looks at neighbours.
        encoder = PatchSeverityEncoder(UNET, 2, **autoencoder.numbers, conditions=["jpeg"])
        return FlashPipeline(LatentPrior(autoencoder, denoiser, scheduler), encoder)
