"""Autoencoders behind one convention: images in [0, 1] <-> latents in the units the schedule sees.

The only place of the [-1, 1] range, of scaling factors and of quantisation.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self, cast

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny, VQModel
from torch import Tensor, nn

from flashdiffusion.errors import InputError, shown
from flashdiffusion.priors.arguments import is_kind
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
    latent_std = 1.0  # of the latents of images
    keeps_white_noise = True  # on images in [-1, 1], as noise of the same size on latents

    def encode(self, x: Tensor) -> Tensor:
        return to_network_range(x)

    def decode(self, z: Tensor, quantise: bool = True) -> Tensor:
        return to_image_range(z)


NETWORKS: dict[str, Any] = {one.__name__: one for one in (AutoencoderKL, VQModel, AutoencoderTiny, AutoencoderDC)}


class DiffusersAutoencoder(KeepsFloat32Buffers):
    """diffusers' AutoencoderKL, VQModel, AutoencoderTiny or AutoencoderDC.

    Scaled latent z = s (raw - m) / v with m, v the per-channel `latents_mean`, `latents_std` of the config
    (0 and 1 if absent; `shift_factor` counts as m) and s its `scaling_factor`. For KL models raw is the
    posterior mean; for VQ models it is the encoder's output before quantisation, and decoding quantises.

    A model whose config says `force_upcast` (SDXL's) overflows in float16, and stays in float32 there; bfloat16, which
    has float32's range, is taken.

    Raises:
        InputError: scaling that is no finite numbers above 0, one for each channel.
    """

    latent_std = 1.0  # standardised
    keeps_white_noise = False
    shift: Tensor
    gain: Tensor

    def __init__(self, model: AutoencoderKL | VQModel | AutoencoderTiny | AutoencoderDC) -> None:
        super().__init__()
        self.model = model
        config = model.config
        self.channels = int(config.get("vq_embed_dim") or config.latent_channels)
        widths = config.get("encoder_block_out_channels") or config.block_out_channels
        self.factor = int(config.get("upsampling_scaling_factor") or 2) ** (len(widths) - 1)
        factor, shift = (
            default if config.get(name) is None else config[name]
            for name, default in (("scaling_factor", 1.0), ("shift_factor", 0.0))
        )
        if not is_kind(factor, float) or not is_kind(shift, float):
            raise InputError(f"scaling_factor {shown(factor)}, shift_factor {shown(shift)}; expected numbers")
        mean = _per_channel(config, "latents_mean", shift, self.channels)
        std = _per_channel(config, "latents_std", 1.0, self.channels)
        gain = factor / std
        if not bool((gain.isfinite() & (gain > 0) & (std > 0)).all()):
            raise InputError(
                f"scaling_factor {shown(factor)} over latents_std {shown(std.flatten().tolist())}; expected numbers "
                "above 0"
            )
        self.register_buffer("shift", mean, persistent=False)
        self.register_buffer("gain", gain, persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> scaled latents (B, channels, H / factor, W / factor), in the type of x."""
        output = self.model.encode(to_network_range(x).to(self.model.dtype))
        (value,) = output.to_tuple()[:1]
        raw = cast(Tensor, value.mean if isinstance(self.model, AutoencoderKL) else value)
        return ((raw - self.shift) * self.gain).to(x.dtype)

    def decode(self, z: Tensor, quantise: bool = True) -> Tensor:
        """The inverse, in the type of z; values are not clipped to [0, 1]. VQ models can be left unquantised."""
        raw = (z / self.gain + self.shift).to(self.model.dtype)
        options = {"force_not_quantize": not quantise} if isinstance(self.model, VQModel) else {}
        return to_image_range(self.model.decode(raw, **options).sample.to(z.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self.model.dtype == torch.float16 and self.model.config.get("force_upcast"):
            nn.Module.to(self.model, torch.float32)  # what a model of diffusers does itself warns
        return self


def _per_channel(config: Mapping[str, Any], name: str, default: float, channels: int) -> Tensor:
    """Read a config's numbers, one for each channel, as float32 (1, channels, 1, 1)."""
    values = [default] * channels if config.get(name) is None else config[name]
    if not is_kind(values, list[float]) or len(values) != channels:
        raise InputError(f"{name} is {shown(values)}; expected {channels} numbers")
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
