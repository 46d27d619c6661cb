"""Autoencoders behind one convention: images in [0, 1] <-> latents in the units the schedule sees.

The only place of the [-1, 1] range, of scaling factors and of quantisation.
"""

from typing import cast

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor, nn

from flashdiffusion.priors.precision import KeepsFloat32Buffers


def to_network_range(x: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return 2 * x - 1


def to_image_range(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], not clipped."""
    return (x + 1) / 2


class IdentityAutoencoder(nn.Module):
    """Latent = image in [-1, 1]: turns every latent solver into its pixel-space original."""

    factor = 1  # pixels per latent entry along a side
    channels = 3

    def encode(self, x: Tensor) -> Tensor:
        return to_network_range(x)

    def decode(self, z: Tensor) -> Tensor:
        return to_image_range(z)


class DiffusersAutoencoder(KeepsFloat32Buffers):
    """diffusers' AutoencoderKL or VQModel.

    Scaled latent z = s (raw - m) / v with m, v the per-channel `latents_mean`, `latents_std` of the config
    (0 and 1 if absent; `shift_factor` counts as m) and s its `scaling_factor`. For KL models raw is the
    posterior mean; for VQ models it is the encoder's output before quantisation, and decoding quantises.
    """

    shift: Tensor
    gain: Tensor

    def __init__(self, model: AutoencoderKL | VQModel) -> None:
        super().__init__()
        self.model = model
        config = model.config
        self.channels = int(config.get("vq_embed_dim") or config.latent_channels)
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        mean = config.get("latents_mean") or [config.get("shift_factor") or 0.0] * self.channels
        std = config.get("latents_std") or [1.0] * self.channels
        gain = (config.get("scaling_factor") or 1.0) / torch.tensor(std, dtype=torch.float32)
        self.register_buffer("shift", torch.tensor(mean).float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("gain", gain.view(1, -1, 1, 1), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> scaled latents (B, channels, H / factor, W / factor), in the type of x."""
        raw = self.encode_raw(to_network_range(x).to(self.model.dtype))
        return ((raw - self.shift) * self.gain).to(x.dtype)

    def decode(self, z: Tensor) -> Tensor:
        """The inverse, in the type of z; values are not clipped to [0, 1]."""
        raw = (z / self.gain + self.shift).to(self.model.dtype)
        return to_image_range(self.model.decode(raw).sample.to(z.dtype))

    def encode_raw(self, x: Tensor) -> Tensor:
        """Images in [-1, 1] -> the network's own latents."""
        output = self.model.encode(x)
        return cast(Tensor, output.latents if isinstance(self.model, VQModel) else output.latent_dist.mean)
