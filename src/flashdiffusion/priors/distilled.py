"""The distilled decoder: what D0 makes of a latent, nearly, for a fraction of its arithmetic."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from flashdiffusion.errors import CheckpointError, InputError, blamed_on
from flashdiffusion.priors.autoencoder import to_image_range
from flashdiffusion.priors.folder import load_component
from flashdiffusion.priors.patches import Autoencoder
from flashdiffusion.priors.trial import check_output, photograph

_GROUPS = 8


class _Block(nn.Module):
    """x + a correction, two convolutions wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(_GROUPS, width), width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


class DistilledDecoder(ModelMixin, ConfigMixin):
    """Scaled latents -> images, called like `LatentPrior.decode`; distilled from one autoencoder, good for it alone.

    For what needs the decoder's gradient more than its last detail. All the work is done at the latents' resolution:
    the last convolution gives each place its factor x factor pixels as channels (pixel shuffle). Rows are independent.

    Args:
        latent_channels: channels c of the latents.
        factor: pixels per latent entry along a side.
        width: channels of the features.
        layers: residual blocks.

    Raises:
        InputError: one of them below 1 (layers: below 0).
    """

    @register_to_config
    def __init__(self, latent_channels: int, factor: int, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        if min(latent_channels, factor, width) < 1 or layers < 0:
            raise InputError(
                f"latent_channels {latent_channels}, factor {factor}, width {width}, layers {layers}; "
                "expected at least 1, of layers at least 0"
            )
        self.head = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(layers)))
        self.tail = nn.Conv2d(width, 3 * factor**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B, c, h, w) -> images (B, 3, H, W) on the [0, 1] scale, not clipped, in z's type; differentiable.

        Raises:
            InputError: latents of another number of channels.
        """
        if z.ndim != 4 or z.shape[1] != self.config.latent_channels:
            expected = f"(B, {self.config.latent_channels}, h, w)"
            raise InputError(f"latents of shape {tuple(z.shape)}; this distilled decoder takes {expected}")
        h = self.blocks(self.head(z.to(self.dtype)))
        return to_image_range(F.pixel_shuffle(self.tail(F.silu(h)), self.config.factor).to(z.dtype))


@torch.no_grad()
def load_distilled_decoder(folder: Path, autoencoder: Autoencoder) -> DistilledDecoder:
    """Load the distilled decoder of an autoencoder from its folder, with frozen parameters.

    Raises:
        CheckpointError: missing, of another class, weights that do not fit the config, or of an autoencoder with other
            latent channels or another factor; or it fails on a photograph's latents.
    """
    model = load_component(DistilledDecoder, folder)
    own, other = (model.config.latent_channels, model.config.factor), (autoencoder.channels, autoencoder.factor)
    if own != other:
        raise CheckpointError(
            f"{folder}: distilled decoder of {own[0]} latent channels and factor {own[1]} beside an autoencoder of "
            f"{other[0]} and {other[1]}; expected equal numbers"
        )
    with blamed_on(folder):
        x = photograph(autoencoder.factor)
        check_output(folder, "distilled decoder", model(autoencoder.encode(x)), x.shape)
    return model.requires_grad_(False)
