"""The severity encoders published with the paper: lightning checkpoints over CompVis' VQ first stage.

Their `encoder` is CompVis' Encoder, followed by `quant_conv`; the head is σ̂² = mean(std_conv(ẑ)²).
"""

from pathlib import Path

import torch
from torch import Tensor

from flashdiffusion.errors import CheckpointError
from flashdiffusion.priors.tensors import read_tensors
from flashdiffusion.published.first_stage import EncoderShape, original_key
from flashdiffusion.published.keymap import KeyMap, renamed
from flashdiffusion.severity import SeverityEncoder

HEAD = "std_conv.weight"
# Our names and theirs, beside those of the encoder.
_NAMES = {"out_norm.": "encoder.norm_out.", "z_conv.": "encoder.conv_out.", "var_conv.": "std_conv."}
_SCALED = {"quant_conv.weight", "quant_conv.bias", "var_conv.bias"}
# What the training module kept beside the severity encoder: the frozen first stage, the degradation, the noise.
_BESIDE = ("pretrained_autoencoder.", "fwd_operator.", "noise_schedule.")


def load_published_severity(path: str | Path, scale_factor: float = 1.0, sha256: str | None = None) -> SeverityEncoder:
    """Load a published `.ckpt` (or `*_light.ckpt`) as a severity encoder with the paper's head.

    Args:
        path: the checkpoint; what else lightning keeps in it is neither needed nor executed.
        scale_factor: of the prior's latents (1 for CompVis' VQ models): the published encoder gives unscaled ones,
            while ours are scaled.
        sha256: the file's expected SHA-256, in hexadecimal.

    Raises:
        CheckpointError: another kind of file, or missing, extra or misshapen tensors.
    """
    keys = KeyMap(_own_tensors(read_tensors(Path(path), sha256), str(path)), str(path))
    shape = EncoderShape.of(keys, "encoder.")
    if not torch.tensor(scale_factor).isfinite() or scale_factor <= 0:
        raise CheckpointError(f"scale_factor is {scale_factor}; expected a positive number")
    config = shape.arguments() | {"out_channels": shape.out_channels, "double_z": False}
    channels = keys.shape("quant_conv.weight", 4)[0]

    def key_of(name: str) -> str:
        return renamed(original_key(name, len(shape.widths)), _NAMES)

    def scaled(name: str, key: str) -> Tensor:
        """Rescale ẑ to s ẑ, and σ̂² with it: s² mean((W ẑ + b)²) = mean((W s ẑ + s b)²)."""
        return keys.left[key] * scale_factor if name in _SCALED else keys.left[key]

    return keys.build(lambda: SeverityEncoder(config, channels, "paper"), key_of, scaled)


def _own_tensors(tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Select the severity encoder's tensors, without the prefix that full checkpoints have and light ones lack."""
    heads = [key for key in tensors if key == HEAD or key.endswith("." + HEAD)]
    if len(heads) != 1:
        raise CheckpointError(
            f"{source} has {len(heads)} keys {HEAD}; expected one, as in a published severity encoder"
        )
    prefix = heads[0].removesuffix(HEAD)
    own = {k: v for k, v in tensors.items() if not k.startswith(_BESIDE)}
    if foreign := sorted(k for k in own if not k.startswith(prefix)):
        raise CheckpointError(f"{source} has a key {foreign[0]} beside {heads[0]}; expected a severity encoder alone")
    return {k.removeprefix(prefix): v for k, v in own.items()}
