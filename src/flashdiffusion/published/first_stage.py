"""CompVis first stages (`VQModelInterface`, `AutoencoderKL`) as diffusers' VQModel and AutoencoderKL.

Their encoder and decoder have `down.L.block.J`, `mid.block_1`, `mid.attn_1` and `up.L.block.J`, with L counted from the
full resolution in both; diffusers counts the decoder's levels from the deepest.
"""

from dataclasses import dataclass

from diffusers import AutoencoderKL, VQModel

from flashdiffusion.published.keymap import GROUPS, KeyMap, check_widths, indices

_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
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
        """Infer the shape from the weights under `prefix`.

        Raises:
            CheckpointError: these are no weights of such an encoder.
        """
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


def map_encoder(keys: KeyMap, shape: EncoderShape, old: str, new: str) -> None:
    """Move an encoder's tensors to the names of diffusers' Encoder."""
    keys.layer(f"{old}conv_in", f"{new}conv_in")
    for i in range(len(shape.widths)):
        for j in range(shape.blocks):
            _map_resnet(keys, f"{old}down.{i}.block.{j}", f"{new}down_blocks.{i}.resnets.{j}")
            if shape.attention[i]:
                map_attention(keys, f"{old}down.{i}.attn.{j}", f"{new}down_blocks.{i}.attentions.{j}")
        if i < len(shape.widths) - 1:
            keys.layer(f"{old}down.{i}.downsample.conv", f"{new}down_blocks.{i}.downsamplers.0.conv")
    _map_ends(keys, shape, old, new)


def map_decoder(keys: KeyMap, shape: EncoderShape, old: str, new: str) -> None:
    """Move the tensors of the decoder that belongs to such an encoder."""
    keys.layer(f"{old}conv_in", f"{new}conv_in")
    last = len(shape.widths) - 1
    for i in range(last + 1):
        level = f"{new}up_blocks.{last - i}"
        for j in range(shape.blocks + 1):
            _map_resnet(keys, f"{old}up.{i}.block.{j}", f"{level}.resnets.{j}")
            if shape.attention[i]:
                map_attention(keys, f"{old}up.{i}.attn.{j}", f"{level}.attentions.{j}")
        if i > 0:
            keys.layer(f"{old}up.{i}.upsample.conv", f"{level}.upsamplers.0.conv")
    _map_ends(keys, shape, old, new)


def load_first_stage(keys: KeyMap, scale_factor: float, resolution: int | None) -> AutoencoderKL | VQModel:
    """The autoencoder of a checkpoint whose keys are encoder.*, decoder.*, quant_conv.*, post_quant_conv.*, and
    quantize.embedding.weight if it is a VQ model.

    Args:
        keys: exactly these tensors.
        scale_factor: latents are multiplied by it for the diffusion model.
        resolution: side in pixels of the training images, if known.

    Raises:
        CheckpointError: missing, extra or misshapen tensors.
    """
    shape = EncoderShape.of(keys, "encoder.")
    codebook = keys.shape(CODEBOOK, 2) if CODEBOOK in keys.left else None
    config = (
        shape.arguments()
        | {
            "out_channels": keys.shape("decoder.conv_out.weight", 4)[0],
            "up_block_types": [
                "AttnUpDecoderBlock2D" if attends else "UpDecoderBlock2D" for attends in reversed(shape.attention)
            ],
            "latent_channels": shape.out_channels if codebook is not None else shape.out_channels // 2,
            "scaling_factor": scale_factor,
        }
        | ({"sample_size": resolution} if resolution else {})
    )
    map_encoder(keys, shape, "encoder.", "encoder.")
    map_decoder(keys, shape, "decoder.", "decoder.")
    for name in ("quant_conv", "post_quant_conv"):
        keys.layer(name, name)
    if codebook is None:
        keys.finish()
        return keys.build(lambda: AutoencoderKL(**config))
    keys.put(CODEBOOK, keys.take(CODEBOOK), CODEBOOK)
    keys.finish()
    return keys.build(lambda: VQModel(**config, num_vq_embeddings=codebook[0], vq_embed_dim=codebook[1]))


def map_attention(keys: KeyMap, old: str, new: str) -> None:
    """Move single-head attention; its 1x1 convolutions are linear layers in diffusers."""
    for theirs, ours in _ATTENTION.items():
        keys.layer(f"{old}.{theirs}", f"{new}.{ours}", linear=theirs != "norm")


def _map_resnet(keys: KeyMap, old: str, new: str) -> None:
    keys.layers(old, new, {name: name for name in ("norm1", "conv1", "norm2", "conv2")})
    if keys.has(f"{old}.nin_shortcut"):
        keys.layer(f"{old}.nin_shortcut", f"{new}.conv_shortcut")


def _map_ends(keys: KeyMap, shape: EncoderShape, old: str, new: str) -> None:
    for number in (1, 2):
        _map_resnet(keys, f"{old}mid.block_{number}", f"{new}mid_block.resnets.{number - 1}")
    if shape.mid_attention:
        map_attention(keys, f"{old}mid.attn_1", f"{new}mid_block.attentions.0")
    keys.layers(old.removesuffix("."), new.removesuffix("."), {"norm_out": "conv_norm_out", "conv_out": "conv_out"})
