"""The guided-diffusion UNet, which latent-diffusion uses too, as diffusers' UNet2DModel.

`input_blocks` are a convolution and then, per level, residual blocks (each followed by attention where the level has
it) and a downsampling; `output_blocks` mirror them, an upsampling being the last layer of its level's last block.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import UNet2DModel
from torch import Tensor

from flashdiffusion.errors import CheckpointError
from flashdiffusion.published.config import whole
from flashdiffusion.published.keymap import GROUPS, KeyMap, check_widths, indices, renamed

# diffusers' names and the original's, replaced in this order.
_NAMES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.resnets.1": "middle_block.2",
    "mid_block.attentions.0": "middle_block.1",
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
    "group_norm": "norm",
    "to_out.0": "proj_out",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "downsamplers.0.conv.": "downsamplers.0.op.",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")


@dataclass(frozen=True)
class UNetShape:
    """What the weights of a guided-diffusion UNet say of it."""

    in_channels: int
    out_channels: int
    model_channels: int
    widths: tuple[int, ...]  # per level, full resolution first
    blocks: int  # residual blocks per level
    attention: tuple[bool, ...]  # per level
    scale_shift: bool
    resblock_updown: bool

    @classmethod
    def of(cls, keys: KeyMap) -> "UNetShape":
        """Infer the shape from the weights; raises CheckpointError if they are not an unconditional UNet's."""
        tensors, source = keys.left, keys.source
        if conditional := sorted(k for k in tensors if k.startswith("label_emb.") or ".transformer_blocks." in k):
            raise CheckpointError(
                f"{source} has a key {keys.prefix}{conditional[0]}: a conditional model, which is given a class or "
                "text at each step; expected an unconditional one"
            )
        outputs = indices(tensors, "output_blocks.")
        ups = [n for n in range(outputs) if _has_upsampling(tensors, n)]
        levels = len(ups) + 1
        per_level = outputs // levels
        if not outputs or outputs % levels or ups != [per_level * (i + 1) - 1 for i in range(levels - 1)]:
            raise CheckpointError(
                f"{source}: {outputs} output_blocks with upsamplings in {ups}; expected as many blocks in every level"
            )
        first = [1 + per_level * i for i in range(levels)]  # the first residual block of each level
        widths = tuple(keys.shape(f"input_blocks.{n}.0.in_layers.2.weight", 4)[0] for n in first)
        check_widths(keys, widths)
        base, channels = keys.shape("input_blocks.0.0.weight", 4)[:2]
        return cls(
            in_channels=channels,
            out_channels=keys.shape("out.2.weight", 4)[0],
            model_channels=base,
            widths=widths,
            blocks=per_level - 1,
            attention=tuple(f"input_blocks.{n}.1.qkv.weight" in tensors for n in first),
            scale_shift=keys.shape("input_blocks.1.0.emb_layers.1.weight", 2)[0] == 2 * widths[0],
            resblock_updown=levels > 1 and f"input_blocks.{per_level}.0.op.weight" not in tensors,
        )

    def described(self) -> dict[str, Any]:
        """Describe the shape by guided-diffusion's argument names."""
        base = self.model_channels
        multiples = [w // base if w % base == 0 else w / base for w in self.widths]
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "model_channels": base,
            "num_res_blocks": self.blocks,
            "channel_mult": multiples,
            "use_scale_shift_norm": self.scale_shift,
        } | ({"resblock_updown": self.resblock_updown} if len(self.widths) > 1 else {})

    @property
    def downsamplings(self) -> list[int]:
        """Downsampling factors with attention, latent-diffusion's attention_resolutions."""
        return [2**i for i, attends in enumerate(self.attention) if attends]


def head_channels(shape: UNetShape, config: Mapping[str, Any], source: str, default: int | None = None) -> int:
    """Find the channels of an attention head, which only `num_head_channels` or `num_heads` of the config shows.

    Raises:
        CheckpointError: neither is given, or one that diffusers' UNet cannot express.
    """
    widths = {w for w, attends in zip(shape.widths, shape.attention, strict=True) if attends} | {shape.widths[-1]}
    names = ("num_head_channels", "num_heads", "num_heads_upsample")
    channels, heads, upsample = (whole(config, name, source) for name in names)
    if channels is None and heads is not None:
        if upsample not in (None, heads):
            raise CheckpointError(f"{source}: num_heads_upsample is {upsample}; expected {heads}, as num_heads")
        if len(widths) > 1:
            raise CheckpointError(
                f"{source}: num_heads is {heads} for attention over {sorted(widths)} channels; diffusers' UNet has one "
                "num_head_channels for all, so this model cannot be brought over"
            )
        channels = max(1, min(widths) // heads)
    channels = channels or default
    if channels is None:
        raise CheckpointError(f"{source} has neither num_head_channels nor num_heads; expected one of them")
    if any(width % channels for width in widths):
        raise CheckpointError(
            f"{source}: num_head_channels is {channels}; expected a divisor of the weights' {sorted(widths)} channels"
        )
    return channels


def load_unet(
    keys: KeyMap, shape: UNetShape, head: int, sample_size: int | None, new_attention_order: bool = False
) -> UNet2DModel:
    """Load the denoiser of a checkpoint whose keys are exactly those of the UNet.

    Args:
        head: channels of an attention head.
        sample_size: side of what it denoises, if known.
        new_attention_order: queries of all heads, then keys, then values; else head by head.

    Raises:
        CheckpointError: missing, extra or misshapen tensors.
    """

    def part(name: str, key: str) -> Tensor:
        return _third(keys, name, key, head, new_attention_order) if ".qkv." in key else keys.left[key]

    return keys.build(
        lambda: UNet2DModel(**_arguments(shape, head, sample_size)), lambda name: _original_key(name, shape), part
    )


def _original_key(name: str, shape: UNetShape) -> str:
    """Translate a parameter's name in diffusers' UNet2DModel to the original's key."""

    def place(found: re.Match[str]) -> str:
        level, kind, number = int(found[2]), found[3], int(found[4])
        column = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 1 + shape.attention[-1 - level]}[kind]
        row = level * (shape.blocks + 1) + (number if kind in ("resnets", "attentions") else shape.blocks)
        return f"input_blocks.{row + 1}.{column}" if found[1] == "down" else f"output_blocks.{row}.{column}"

    return _BLOCK.sub(place, renamed(name, _NAMES))


def _arguments(shape: UNetShape, head: int, sample_size: int | None) -> dict[str, Any]:
    kind, resampling = ("Resnet{}sampleBlock2D", "resnet") if shape.resblock_updown else ("{}Block2D", "conv")
    return {
        "sample_size": sample_size,
        "in_channels": shape.in_channels,
        "out_channels": shape.out_channels,
        "block_out_channels": list(shape.widths),
        "layers_per_block": shape.blocks,
        "down_block_types": ["AttnDownBlock2D" if attends else kind.format("Down") for attends in shape.attention],
        "up_block_types": ["AttnUpBlock2D" if attends else kind.format("Up") for attends in reversed(shape.attention)],
        "downsample_type": resampling,
        "upsample_type": resampling,
        "resnet_time_scale_shift": "scale_shift" if shape.scale_shift else "default",
        "attention_head_dim": head,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,
        "norm_eps": 1e-5,
        "freq_shift": 0,
        "flip_sin_to_cos": True,
    }


def _has_upsampling(tensors: Mapping[str, Tensor], n: int) -> bool:
    later = [f"output_blocks.{n}.{place}" for place in (1, 2)]
    return any(f"{old}.conv.weight" in tensors or f"{old}.in_layers.2.weight" in tensors for old in later)


def _third(keys: KeyMap, name: str, key: str, head: int, new_order: bool) -> Tensor:
    """Take the queries, keys or values, whichever `name` is, of the three that the original has in one."""
    shape = keys.shape(key, 3 if key.endswith("weight") else 1)
    if shape[0] % (3 * head) or shape[2:] not in ((), (1,)):
        raise CheckpointError(
            f"{keys.source}: {keys.prefix}{key} has shape {shape}; expected rows in multiples of 3 x {head}"
        )
    # (3 H c) as (3, H, c) in the new order and as (H, 3, c) in the old one, where each head has its own three.
    tensor, rest = keys.left[key].reshape(shape[:2]), shape[1:2]
    split = tensor.reshape(3, -1, head, *rest) if new_order else tensor.reshape(-1, 3, head, *rest).transpose(0, 1)
    return split["qkv".index(name.rsplit(".to_")[1][0])].reshape(-1, *rest)
