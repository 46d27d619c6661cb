"""CompVis first stages (`VQModelInterface`, `AutoencoderKL`) as diffusers' VQModel and AutoencoderKL.

Their encoder and decoder have `down.L.block.J`, `mid.block_1`, `mid.attn_1` and `up.L.block.J`, with L counted from the
full resolution in both; diffusers counts the decoder's levels from the deepest.
"""

import re
from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL, VQModel

from flashdiffusion.published.keymap import GROUPS, KeyMap, check_widths, indices, renamed

# diffusers' names and CompVis', replaced in this order.
_NAMES = {
    "down_blocks.": "down.",
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "mid_block.attentions.0.": "mid.attn_1.",
    ".resnets.": ".block.",
    ".attentions.": ".attn.",
    ".downsamplers.0.": ".downsample.",
    ".upsamplers.0.": ".upsample.",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    ".to_out.0.": ".proj_out.",
    ".to_": ".",
}
CODEBOOK = "quantize.embedding.weight"


@dataclass(frozen=True)
class EncoderShape:
    """What the weights of a CompVis encoder say of it."""

    in_channels: int
    widths: tuple[int, ...]  # per level, full resolution first
    blocks: int  # residual blocks per level
    attention: tuple[bool, ...]  # per level
    mid_attention: bool
    out_channels: int

    @classmethod
    def of(cls, keys: KeyMap, prefix: str) -> "EncoderShape":
        """Infer the shape from the weights under `prefix`; raises CheckpointError if they are no such encoder's."""
        tensors = keys.left
        levels, blocks = indices(tensors, f"{prefix}down."), indices(tensors, f"{prefix}down.0.block.")
        if not levels or not blocks:
            raise keys.missing(f"{prefix}down.0.block.0.conv1.weight")
        widths = tuple(keys.shape(f"{prefix}down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels))
        check_widths(keys, widths)
        return cls(
            in_channels=keys.shape(f"{prefix}conv_in.weight", 4)[1],
            widths=widths,
            blocks=blocks,
            attention=tuple(f"{prefix}down.{i}.attn.0.q.weight" in tensors for i in range(levels)),
            mid_attention=f"{prefix}mid.attn_1.q.weight" in tensors,
            out_channels=keys.shape(f"{prefix}conv_out.weight", 4)[0],
        )

    def arguments(self) -> dict[str, object]:
        """Give the arguments of diffusers' Encoder, except its output channels."""
        kinds = ["AttnDownEncoderBlock2D" if attends else "DownEncoderBlock2D" for attends in self.attention]
        return {
            "in_channels": self.in_channels,
            "down_block_types": kinds,
            "block_out_channels": list(self.widths),
            "layers_per_block": self.blocks,
            "norm_num_groups": GROUPS,
            "act_fn": "silu",
            "mid_block_add_attention": self.mid_attention,
        }


def original_key(name: str, levels: int) -> str:
    """Translate a parameter's name in diffusers' encoder or decoder to CompVis' key."""
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
    return renamed(name, _NAMES)


def load_first_stage(keys: KeyMap, scale_factor: float, resolution: int | None) -> AutoencoderKL | VQModel:
    """Load the autoencoder of a checkpoint of exactly these tensors: a VQ model if they include a codebook, else KL.

    Args:
        scale_factor: latents are multiplied by it for the diffusion model.
        resolution: side in pixels of the training images, if known.

    Raises:
        CheckpointError: missing, extra or misshapen tensors.
    """
    shape = EncoderShape.of(keys, "encoder.")
    codebook = keys.shape(CODEBOOK, 2) if CODEBOOK in keys.left else None
    config: dict[str, Any] = (
        shape.arguments()
        | {
            "out_channels": keys.shape("decoder.conv_out.weight", 4)[0],
            "up_block_types": [
                "AttnUpDecoderBlock2D" if attends else "UpDecoderBlock2D" for attends in reversed(shape.attention)
            ],
            "latent_channels": shape.out_channels if codebook is not None else shape.out_channels // 2,
            "scaling_factor": scale_factor,
            **({} if codebook is not None else {"force_upcast": False}),
        }
        | ({"sample_size": resolution} if resolution else {})
    )
    if codebook is not None:
        config |= {"num_vq_embeddings": codebook[0], "vq_embed_dim": codebook[1]}
    cls = AutoencoderKL if codebook is None else VQModel
    return keys.build(lambda: cls(**config), lambda name: original_key(name, len(shape.widths)))
