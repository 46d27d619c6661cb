"""The severity encoder: degraded image -> estimate of the clean latent, and the variance of its error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin, VQModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Encoder
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from flashdiffusion.errors import InputError, brief, unknown_name
from flashdiffusion.priors import DiffusersAutoencoder
from flashdiffusion.priors.autoencoder import to_network_range
from flashdiffusion.severity.conditions import Conditions, count_numbers, count_planes

HEADS = ("log-variance", "paper")
_FIRST = "conv_in.weight"  # of an encoder's layers
_MODULATION = "modulation."  # of the head by what is known
_OPTIONAL = ("refine.", _MODULATION)  # layers that another encoder may lack
_HIDDEN = 128  # width of the modulation


@dataclass(frozen=True)
class Severity:
    """What the encoder says of a batch.

    z_hat: estimate of the clean latents in scaled latent units, (B, c, h, w).
    var: σ̂², estimated variance of the entries of z_hat - z0, float32 (B,).
    log_var_map: log of the variance at each place of the latent, float32 (B, h, w), if the head gives one.
    """

    z_hat: Tensor
    var: Tensor
    log_var_map: Tensor | None = None

    @property
    def map(self) -> Tensor:
        """Variance at each place of the latent, float32 (B, 1, h, w); σ̂² everywhere if the head gives no map."""
        if self.log_var_map is None:
            return self.var.float().view(-1, 1, 1, 1).expand(-1, 1, *self.z_hat.shape[2:])
        return self.log_var_map.exp()[:, None]

    def updated(self, rows: Tensor, other: "Severity") -> "Severity":
        """The same with another severity at some rows (int64 indices)."""
        z_hat, var = self.z_hat.index_copy(0, rows, other.z_hat), self.var.index_copy(0, rows, other.var)
        logs = self.log_var_map
        return Severity(z_hat, var, None if logs is None else logs.index_copy(0, rows, other.map.log()[:, 0]))


class SeverityEncoder(ModelMixin, ConfigMixin):
    """y -> (ẑ, σ̂²), an autoencoder's encoder with a second head.

    Heads: "log-variance" (default) reads the encoder's deepest features and gives log σ² at each place of the latent;
    σ̂² is the mean of σ² over the places. "paper" is σ̂² = mean(Conv1x1(ẑ)²), section 3.1 of the paper, which sees
    only the cleaned estimate.

    Args:
        encoder_config: arguments of diffusers' `Encoder` (of the autoencoder it starts from).
        latent_channels: channels c of ẑ.
        head: "log-variance" or "paper".
        refine_layers: residual blocks after the encoder's own, at the latents' resolution: undoing a damage takes more
            than encoding an image.
        variance_scale: what the variances, σ̂² and those of the map, are multiplied by, see `calibrate`.
        conditions: names of the degradations that it can be told, and how strong they are, besides σ_y and which pixels
            were lost; None for an encoder that goes by y alone.

    Raises:
        InputError: unknown head, a negative number of layers, or a scale that is not above 0.
    """

    told: str | None = None  # a kind of degradation that it takes every image for, to measure what that costs

    @register_to_config
    def __init__(
        self,
        encoder_config: dict[str, Any],
        latent_channels: int,
        head: str = "log-variance",
        refine_layers: int = 0,
        variance_scale: float = 1.0,
        conditions: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise unknown_name("severity head", head, HEADS)
        if refine_layers < 0:
            raise InputError(f"refine_layers is {refine_layers}; expected 0 or more")
        check_scale(variance_scale)
        planes = 0 if conditions is None else count_planes(conditions)
        self.encoder = Encoder(**encoder_config | {"in_channels": encoder_config["in_channels"] + planes})
        width = encoder_config["block_out_channels"][-1]
        groups = encoder_config["norm_num_groups"]
        blocks = [
            ResnetBlock2D(in_channels=width, temb_channels=None, groups=groups, eps=1e-6) for _ in range(refine_layers)
        ]
        for block in blocks:  # each starts as the identity
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
        self.refine = nn.ModuleList(blocks)
        moments = encoder_config["out_channels"] * (2 if encoder_config["double_z"] else 1)
        # The encoder's last layers are called one by one, so that the features before its norm are at hand.
        self.out_norm, self.z_conv = self.encoder.conv_norm_out, self.encoder.conv_out
        self.encoder.conv_norm_out, self.encoder.conv_act, self.encoder.conv_out = (nn.Identity() for _ in range(3))
        self.quant_conv = nn.Conv2d(moments, latent_channels, 1)
        if head == "paper":
            self.var_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        else:
            self._add_head(width)

    def _add_head(self, width: int) -> None:
        """Add the log-variance head, which reads features of this width before and after the last norm."""
        self.log_var = nn.Sequential(nn.Conv2d(2 * width, width, 1), nn.SiLU(), nn.Conv2d(width, 1, 1))
        if self.config.conditions is not None:
            self.modulation = _modulation(count_numbers(self.config.conditions), width)

    def forward(self, y: Tensor, known: Conditions | None = None) -> Severity:
        """Estimate severity of y (B, 3, H, W) on the [0, 1] scale (noise may leave it), with ẑ in the type of y.

        Args:
            known: what is known of y; an encoder without conditions makes no use of it.
        """
        known = Conditions.none(y) if known is None else known
        if self.told is not None:
            known = replace(known, kinds=[self.told] * len(y))
        planes = y[:, :0] if self.config.conditions is None else known.planes(self.config.conditions)
        raw = self._read(y, planes)
        features = F.silu(self.out_norm(raw))
        z_hat = self._estimate(features, y)
        scale = self.config.variance_scale
        if self.config.head == "paper":
            var = scale * self.var_conv(z_hat).float().square().mean(dim=(1, 2, 3))
            return Severity(z_hat.to(y.dtype), var)
        # The norm takes away how lively the features are, which tells of damage: the head sees them before it too.
        log_var = self._log_variance(torch.cat([raw, features], dim=1), known)
        log_var_map = log_var[:, 0].float().clamp(-12, 4) + math.log(scale)
        return Severity(z_hat.to(y.dtype), log_var_map.exp().mean(dim=(1, 2)), log_var_map)

    def _read(self, y: Tensor, planes: Tensor) -> Tensor:
        """Features of y (B, 3, H, W) on the [0, 1] scale with its planes of conditions, before the last norm."""
        image = torch.cat([to_network_range(y).to(self.dtype), planes.to(y.device, self.dtype)], dim=1)
        raw = cast(Tensor, self.encoder(image))
        for block in self.refine:
            raw = block(raw, None)
        return raw

    def _estimate(self, features: Tensor, y: Tensor) -> Tensor:
        """ẑ from features, after the last norm."""
        return cast(Tensor, self.quant_conv(self.z_conv(features)))

    def _log_variance(self, features: Tensor, known: Conditions) -> Tensor:
        """The head: log σ² from features (B, 2c, h, w), and from what is known if it has conditions."""
        if self.config.conditions is None:
            return cast(Tensor, self.log_var(features))
        return self.modulated(features, known.summary(self.config.conditions))

    def modulated(self, features: Tensor, numbers: Tensor) -> Tensor:
        """The head whose hidden layer is scaled and shifted by numbers (B, n), see `Conditions.summary`."""
        before, activation, after = self.log_var
        scale, shift = self.modulation(numbers.to(features))[:, :, None, None].chunk(2, dim=1)
        return cast(Tensor, after(activation(before(features) * (1 + scale) + shift)))

    @classmethod
    def from_autoencoder(
        cls,
        autoencoder: DiffusersAutoencoder,
        head: str = "log-variance",
        refine_layers: int = 0,
        conditions: Sequence[str] | None = None,
    ) -> "SeverityEncoder":
        """Start as a copy of the encoder, giving E0(y) in scaled latent units as ẑ, whatever is known of y.

        Raises:
            InputError: an encoder of another kind than that of KL and VQ models.
        """
        if not isinstance(autoencoder.model, AutoencoderKL | VQModel):
            raise InputError(
                f"a severity encoder starts as a copy of E0, and that of {type(autoencoder.model).__name__} is of "
                "another kind; expected an AutoencoderKL or VQModel"
            )
        config = autoencoder.model.config
        kl = isinstance(autoencoder.model, AutoencoderKL)
        arguments = {
            "in_channels": config.in_channels,
            "out_channels": config.latent_channels,
            "down_block_types": list(config.down_block_types),
            "block_out_channels": list(config.block_out_channels),
            "layers_per_block": config.layers_per_block,
            "norm_num_groups": config.norm_num_groups,
            "act_fn": config.act_fn,
            "double_z": kl,
            "mid_block_add_attention": config.mid_block_add_attention,
        }
        known = None if conditions is None else list(conditions)
        model = cls(arguments, autoencoder.channels, head, refine_layers, conditions=known)
        source = autoencoder.model.encoder
        model.out_norm.load_state_dict(source.conv_norm_out.state_dict())
        model.z_conv.load_state_dict(source.conv_out.state_dict())
        moved = ("conv_norm_out.", "conv_out.")
        state = {k: v for k, v in source.state_dict().items() if not k.startswith(moved)}
        model.encoder.load_state_dict(state | {_FIRST: model._widened(state[_FIRST], None)})
        model._set_quant_conv(autoencoder)
        return model

    def _widened(self, weight: Tensor, kinds: Sequence[str] | None) -> Tensor:
        """Give the first layer's weight from that of an encoder with these conditions; 0 for those that it lacks."""
        own, image = self.config.conditions, self.config.encoder_config["in_channels"]
        if weight.shape[1] != image + (0 if kinds is None else count_planes(kinds)):
            return weight  # of other images: refused where it is loaded
        wide = weight.new_zeros(len(weight), self.encoder.conv_in.in_channels, *weight.shape[2:])
        wide[:, :image] = weight[:, :image]
        if own is not None and kinds is not None:
            shared = image + count_planes(())
            wide[:, image:shared] = weight[:, image:shared]
            for place, name in enumerate(own):
                if name in kinds:
                    wide[:, shared + place] = weight[:, shared + list(kinds).index(name)]
        return wide

    def start_from(self, other: "SeverityEncoder") -> None:
        """Copy the weights of a trained encoder for the same latents; refining layers that it lacks are kept.

        Conditions that it lacks start without any effect; if it lacks some, or has others, all do so in the head.

        Raises:
            InputError: an encoder of another shape.
        """
        try:
            state = other.state_dict()
            if other.config.conditions != self.config.conditions:
                state = {key: value for key, value in state.items() if not key.startswith(_MODULATION)}
            first = f"encoder.{_FIRST}"
            state[first] = self._widened(state[first], other.config.conditions)
            report = self.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise InputError(f"cannot start from this severity encoder: {brief(error)}") from error
        strange = [*report.unexpected_keys, *(k for k in report.missing_keys if not k.startswith(_OPTIONAL))]
        if strange:
            raise InputError(f"cannot start from this severity encoder: {strange[:3]} do not match")

    @torch.no_grad()
    def _set_quant_conv(self, autoencoder: DiffusersAutoencoder) -> None:
        """Set quant_conv to the autoencoder's, cut to the posterior mean, then the latents' standardisation."""
        source = autoencoder.model.quant_conv
        c = self.config.latent_channels
        weight, bias = self.quant_conv.weight, self.quant_conv.bias
        assert bias is not None
        if source is None:
            weight.copy_(torch.eye(c, weight.shape[1]).view(c, -1, 1, 1))
            bias.zero_()
        else:
            weight.copy_(source.weight[:c])
            bias.copy_(source.bias[:c])
        weight.mul_(autoencoder.gain.view(-1, 1, 1, 1))
        bias.sub_(autoencoder.shift.view(-1)).mul_(autoencoder.gain.view(-1))


def check_scale(variance_scale: float) -> None:
    """Raise InputError for a scale of variances that is not above 0."""
    if not 0 < variance_scale < math.inf:
        raise InputError(f"variance_scale is {variance_scale}; expected a finite number above 0")


def _modulation(numbers: int, width: int) -> nn.Sequential:
    """Layers from what is known to a scale and a shift of `width` features; without any effect at first."""
    layers = [nn.Linear(numbers, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU()]
    last = nn.Linear(_HIDDEN, 2 * width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
