"""The severity encoder of a patch autoencoder: a U-Net on its latents."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from flashdiffusion.errors import InputError, brief, shown
from flashdiffusion.priors import PatchAutoencoder
from flashdiffusion.severity.conditions import Conditions, count_planes
from flashdiffusion.severity.encoder import Severity, SeverityEncoder, check_scale
from flashdiffusion.severity.filling import interpolated


class PatchSeverityEncoder(SeverityEncoder):
    """y -> (ẑ, σ̂²): what a U-Net adds to E0(y), the patches of y, and the log-variance head on its last features.

    The U-Net reads each channel of E0(y) over its spread: noise shows in the finest detail, and were it not enlarged
    the brightness would drown it early in training.

    Args:
        unet_config: arguments of diffusers' `UNet2DModel`, but for its channels in and out.
        patch, mean, std, spread: of the patch autoencoder.
        variance_scale, conditions: see `SeverityEncoder`.
        interpolates: whether lost pixels that it is told of are interpolated before it looks, see `interpolated`. What
            the network adds is then a correction, in place of a picture.

    Raises:
        InputError: a patch autoencoder that cannot be, or a variance_scale that is not above 0.
    """

    @register_to_config
    def __init__(
        self,
        unet_config: dict[str, Any],
        patch: int = 2,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        spread: list[float] | None = None,
        variance_scale: float = 1.0,
        conditions: Sequence[str] | None = None,
        head: str = "log-variance",
        interpolates: bool = False,
    ) -> None:
        ModelMixin.__init__(self)
        if head != "log-variance":
            raise InputError(f"severity head is {head!r}; a patch autoencoder's encoder has log-variance alone")
        check_scale(variance_scale)
        self.autoencoder = PatchAutoencoder(patch, mean, std, spread)
        planes = 0 if conditions is None else count_planes(conditions)
        channels = {"in_channels": (3 + planes) * patch**2, "out_channels": self.autoencoder.channels}
        self.encoder = UNet2DModel(**unet_config | channels)
        # Called one by one, so that the features before the norm are at hand.
        self.out_norm, self.z_conv = self.encoder.conv_norm_out, self.encoder.conv_out
        self.encoder.conv_norm_out, self.encoder.conv_act, self.encoder.conv_out = (nn.Identity() for _ in range(3))
        nn.init.zeros_(self.z_conv.weight)
        nn.init.zeros_(self.z_conv.bias)
        self._add_head(unet_config["block_out_channels"][0])

    @property
    def interpolates(self) -> bool:
        """Whether lost pixels that it is told of need not be filled for it."""
        return bool(self.config.interpolates)

    def forward(self, y: Tensor, known: Conditions | None = None) -> Severity:
        """See `SeverityEncoder.forward`."""
        if self.interpolates and known is not None:
            y = interpolated(y, known.lost)
        return super().forward(y, known)

    def _read(self, y: Tensor, planes: Tensor) -> Tensor:
        patches = self.autoencoder.encode(y) / self.autoencoder.spread.to(y)
        known = F.pixel_unshuffle(planes.to(y), self.autoencoder.factor)
        return cast(Tensor, self.encoder(torch.cat([patches, known], dim=1).to(self.dtype), 0).sample)

    def _estimate(self, features: Tensor, y: Tensor) -> Tensor:
        return self.autoencoder.encode(y) + cast(Tensor, self.z_conv(features)).to(y.dtype)

    @classmethod
    def of(
        cls, autoencoder: PatchAutoencoder, unet_config: dict[str, Any], conditions: Sequence[str] | None = None
    ) -> "PatchSeverityEncoder":
        """Make one whose ẑ is E0(y)."""
        known = None if conditions is None else list(conditions)
        return cls(unet_config, autoencoder.factor, **autoencoder.numbers, conditions=known, interpolates=True)

    def start_from(self, other: SeverityEncoder) -> None:
        """Copy the weights of a trained encoder of the same configuration; raises InputError for another one.

        One that does not interpolate is taken too: it learns to work from what is interpolated.
        """
        if other.config.conditions != self.config.conditions:
            raise InputError(
                f"cannot start from a severity encoder that knows {shown(other.config.conditions)}; this one knows "
                f"{shown(self.config.conditions)}"
            )
        try:
            self.load_state_dict(other.state_dict())
        except RuntimeError as error:
            raise InputError(f"cannot start from this severity encoder: {brief(error)}") from error
