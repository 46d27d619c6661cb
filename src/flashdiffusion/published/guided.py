"""Guided-diffusion checkpoints: pixel-space UNets such as ffhq_10m.pt, the FFHQ model of DPS."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from flashdiffusion.errors import CheckpointError, shown
from flashdiffusion.published.config import check_agreement, whole, with_sorted
from flashdiffusion.published.keymap import KeyMap
from flashdiffusion.published.unet import UNetShape, head_channels, load_unet

HEAD = 64  # channels of an attention head in all published models of this kind
# Widths of the levels that guided-diffusion gives an image size by default.
_SIZES = {(1, 1, 2, 2, 4, 4): 256, (1, 1, 2, 3, 4): 128, (1, 2, 3, 4): 64}
_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def load_guided(
    tensors: dict[str, Tensor], config: Mapping[str, Any], path: Path, config_path: Path | None
) -> tuple[UNet2DModel, DDPMScheduler]:
    """Load denoiser and schedule of a pixel-space checkpoint, which has no autoencoder.

    What the weights do not show is taken from the config, else as in the FFHQ model of DPS: heads of 64 channels, each
    with its own queries, keys and values side by side; 1000 steps, beta linear from 1e-4 to 0.02; ε is predicted.
    With a learned variance the output has twice the channels, of which the first half is ε.

    Raises:
        CheckpointError: missing, extra or misshapen tensors, or a config that contradicts them.
    """
    name = str(config_path or path)
    keys = KeyMap(tensors, str(path))
    shape = UNetShape.of(keys)
    found = shape.described()
    size = whole(config, "image_size", name) or _SIZES.get(tuple(found["channel_mult"]))
    if config.get("class_cond"):
        raise CheckpointError(f"{name}: class_cond is true, but the weights are unconditional")
    check_agreement(_comparable(config, name), _argued(found, shape, size), name)
    head = head_channels(shape, config, name, HEAD)
    denoiser = load_unet(keys, shape, head, size, bool(config.get("use_new_attention_order", False)))
    return denoiser, _scheduler(config, shape, name)


def _comparable(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Parse the lists that guided-diffusion writes as text ("16,8")."""
    values = dict(config)
    for key in ("channel_mult", "attention_resolutions"):
        if isinstance(values.get(key), str | int):
            try:
                parts = [float(part) for part in str(values[key]).split(",") if part]
            except ValueError as error:
                raise CheckpointError(
                    f"{name}: {key} is {shown(values[key])}; expected numbers with commas between"
                ) from error
            values[key] = [int(part) if part.is_integer() else part for part in parts] or None
    return with_sorted(values, "attention_resolutions")


def _argued(found: Mapping[str, Any], shape: UNetShape, size: int | None) -> dict[str, Any]:
    """Rename what the weights show to the options of guided-diffusion's command line."""
    learns = shape.out_channels == 2 * shape.in_channels
    values = dict(found) | {"num_channels": found["model_channels"], "learn_sigma": learns}
    if size is not None:
        values["attention_resolutions"] = sorted(size // factor for factor in shape.downsamplings)
    return values


def _scheduler(config: Mapping[str, Any], shape: UNetShape, name: str) -> DDPMScheduler:
    kind = config.get("noise_schedule", "linear")
    if kind not in list(_SCHEDULES):
        raise CheckpointError(f"{name}: noise_schedule is {shown(kind)}; expected {' or '.join(_SCHEDULES)}")
    steps = whole(config, "diffusion_steps", name) or 1000
    return DDPMScheduler(
        num_train_timesteps=steps,
        beta_start=1e-4 * 1000 / steps,
        beta_end=2e-2 * 1000 / steps,
        beta_schedule=_SCHEDULES[kind],
        prediction_type="sample" if config.get("predict_xstart") else "epsilon",
        variance_type="learned_range" if shape.out_channels == 2 * shape.in_channels else "fixed_small",
    )
