"""The distilled decoder: what D0 makes of a latent, nearly, for a fraction of its arithmetic."""

import math
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from flashdiffusion.errors import CheckpointError, InputError, blamed_on
from flashdiffusion.priors.autoencoder import DiffusersAutoencoder, to_image_range
from flashdiffusion.priors.folder import TINY, load_component, read_json, save_component
from flashdiffusion.priors.patches import Autoencoder
from flashdiffusion.priors.trial import check_output, photograph

_GROUPS = 8
UNLIKE = 0.15  # two decoders of one model's latents are within a third of it


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


class TinyDecoder(nn.Module):
    """The decoder of an AutoencoderTiny, such as TAESD, for the latents of the autoencoder that it was distilled from.

    Args:
        model: its network; the latents that it takes are scaled already, as its `scaling_factor` of 1 says.

    Raises:
        InputError: scaling that is none.
    """

    def __init__(self, model: AutoencoderTiny) -> None:
        super().__init__()
        self.autoencoder = DiffusersAutoencoder(model)

    @property
    def latent_channels(self) -> int:
        return self.autoencoder.channels

    @property
    def factor(self) -> int:
        return self.autoencoder.factor

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B, c, h, w) -> images (B, 3, H, W) on the [0, 1] scale, not clipped, in z's type; differentiable."""
        return self.autoencoder.decode(z)

    def save_pretrained(self, folder: Path) -> None:
        """Write the whole tiny autoencoder."""
        save_component(self.autoencoder.model, folder)


@torch.no_grad()
def load_distilled_decoder(
    folder: Path, autoencoder: Autoencoder, variant: str | None = None
) -> DistilledDecoder | TinyDecoder:
    """Load the distilled decoder of an autoencoder from its folder, with frozen parameters; or an AutoencoderTiny.

    Warns of one whose picture of a photograph has little to do with the autoencoder's.

    Raises:
        CheckpointError: missing, of another class, weights that do not fit the config, or of an autoencoder with other
            latent channels or another factor; or it fails on a photograph's latents.
    """
    model: DistilledDecoder | TinyDecoder
    if read_json(folder / "config.json").get("_class_name") == TINY:
        model = TinyDecoder(load_component(AutoencoderTiny, folder, variant))
    else:
        model = load_component(DistilledDecoder, folder)
    about = model if isinstance(model, TinyDecoder) else model.config
    own, other = (about.latent_channels, about.factor), (autoencoder.channels, autoencoder.factor)
    if own != other:
        raise CheckpointError(
            f"{folder}: distilled decoder of {own[0]} latent channels and factor {own[1]} beside an autoencoder of "
            f"{other[0]} and {other[1]}; expected equal numbers"
        )
    with blamed_on(folder):
        x = photograph(autoencoder.factor)
        z = autoencoder.encode(x)
        decoded = model(z)
        check_output(folder, "distilled decoder", decoded, x.shape)
        if isinstance(model, TinyDecoder):
            _check_likeness(float((decoded - autoencoder.decode(z)).square().mean().sqrt()), folder)
    return model.requires_grad_(False)


def _check_likeness(difference: float, folder: Path) -> None:
    if difference > UNLIKE:
        warnings.warn(
            f"{folder}: its decoder and the model's differ by {difference:.2g} (root mean square) on a photograph; "
            f"expected less than {UNLIKE}: is it of another model's latents?",
            stacklevel=3,
        )
