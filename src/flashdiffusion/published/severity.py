"""The severity encoders published with the paper: lightning checkpoints over CompVis' VQ first stage.

Their `encoder` is CompVis' Encoder, followed by `quant_conv`; the head is σ̂² = mean(std_conv(ẑ)²).
"""

from pathlib import Path

import torch
from torch import Tensor

from flashdiffusion.errors import CheckpointError
from flashdiffusion.priors.tensors import read_tensors
from flashdiffusion.published.first_stage import EncoderShape, map_encoder
from flashdiffusion.published.keymap import KeyMap
from flashdiffusion.severity import SeverityEncoder

HEAD = "std_conv.weight"
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
    map_encoder(keys, shape, "encoder.", "encoder.")
    keys.rename("encoder.conv_norm_out", "out_norm")
    keys.rename("encoder.conv_out", "z_conv")
    keys.layer("quant_conv", "quant_conv")
    keys.layer("std_conv", "var_conv")
    keys.finish()
    if not torch.tensor(scale_factor).isfinite() or scale_factor <= 0:
        raise CheckpointError(f"scale_factor is {scale_factor}; expected a positive number")
    _scale(keys.moved, scale_factor)
    config = shape.arguments() | {"out_channels": shape.out_channels, "double_z": False}
    channels = keys.moved["quant_conv.weight"].shape[0]
    return keys.build(lambda: SeverityEncoder(config, channels, "paper"))


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


def _scale(tensors: dict[str, Tensor], s: float) -> None:
    """Rescale ẑ to s ẑ, and σ̂² with it: s² mean((W ẑ + b)²) = mean((W s ẑ + s b)²)."""
    for name in ("quant_conv.weight", "quant_conv.bias", "var_conv.bias"):
        tensors[name] = tensors[name] * s
