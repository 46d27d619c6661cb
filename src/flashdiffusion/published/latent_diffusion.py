"""The original latent-diffusion checkpoints: model.ckpt with its config.yaml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel, VQModel
from torch import Tensor

from flashdiffusion.errors import CheckpointError, shown
from flashdiffusion.published.config import check_agreement, number, section, whole, with_sorted
from flashdiffusion.published.first_stage import CODEBOOK, EncoderShape, load_first_stage
from flashdiffusion.published.keymap import KeyMap
from flashdiffusion.published.unet import UNetShape, head_channels, load_unet

UNET, EMA, FIRST_STAGE = "model.diffusion_model.", "model_ema.", "first_stage_model."
CONDITION = "cond_stage_model."
# Constants of the schedule, which the config gives; `betas` is compared with it.
_BUFFERS = {
    *("alphas_cumprod", "alphas_cumprod_prev", "betas", "log_one_minus_alphas_cumprod", "logvar", "lvlb_weights"),
    *("posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance"),
    *("scale_factor", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod"),
    "sqrt_recipm1_alphas_cumprod",
}
_PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
_SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear"}  # CompVis' "linear" is linear in sqrt(beta)


def load_latent_diffusion(
    tensors: dict[str, Tensor], config: Mapping[str, Any], path: Path, config_path: Path
) -> tuple[AutoencoderKL | VQModel, UNet2DModel, DDPMScheduler]:
    """Load autoencoder, denoiser (its moving average if there is one) and schedule; messages name the two paths.

    Raises:
        CheckpointError: missing, extra or misshapen tensors, or a config that contradicts them.
    """
    name = str(config_path)
    model = section(config, "model", "params", source=name)
    unet = section(model, "unet_config", "params", source=name)
    first = section(model, "first_stage_config", "params", source=name)
    ddconfig = section(first, "ddconfig", source=name)

    _expect_unconditional(model, tensors, name)
    scheduler = _scheduler(model, tensors, name)
    scale_factor = number(model, "scale_factor", 1.0, name)
    if "scale_factor" in tensors:  # measured in training
        scale_factor = number({"scale_factor": tensors["scale_factor"].mean()}, "scale_factor", 1.0, str(path))
    keys = KeyMap(tensors, str(path))
    keys.drop(keys=_BUFFERS)
    stage = _split(keys, FIRST_STAGE)
    weights = _denoiser_weights(keys)
    keys.finish()

    _check_first_stage(stage, first, ddconfig, name)
    stage.drop(prefixes=["loss."])
    shape = UNetShape.of(weights)
    found = shape.described() | {"attention_resolutions": sorted(shape.downsamplings)}
    check_agreement(with_sorted(unet, "attention_resolutions"), found, name)
    resolution = whole(ddconfig, "resolution", name)
    head = head_channels(shape, unet, name)
    order = bool(unet.get("use_new_attention_order", False))
    denoiser = load_unet(weights, shape, head, whole(unet, "image_size", name), order)
    return load_first_stage(stage, scale_factor, resolution), denoiser, scheduler


def _expect_unconditional(model: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> None:
    condition = model.get("cond_stage_config")
    if isinstance(condition, Mapping):
        condition = condition.get("target", "a network")
    condition = None if condition == "__is_unconditional__" else condition
    condition = (
        condition or model.get("conditioning_key") or next((k for k in tensors if k.startswith(CONDITION)), None)
    )
    if condition is not None:
        raise CheckpointError(
            f"{name}: a conditional model ({shown(condition)}), which is given text, a class or an image at each step; "
            "expected an unconditional one"
        )


def _denoiser_weights(keys: KeyMap) -> KeyMap:
    """Collect the UNet's tensors by name; the moving average has the names without dots."""
    weights = _split(keys, UNET)
    if not weights.left:
        raise CheckpointError(f"{keys.source} has no key {UNET}*; expected a latent-diffusion checkpoint")
    average = _split(keys, EMA)
    average.drop(keys=["decay", "num_updates"])
    if not average.left:
        return weights
    flat = {name: f"{UNET.removeprefix('model.')}{name}".replace(".", "") for name in weights.left}
    for name, without_dots in flat.items():
        if without_dots not in average.left:
            raise CheckpointError(
                f"{keys.source} has no key {EMA}{without_dots}; expected the moving average of {UNET}{name}"
            )
        weights.left[name] = average.left.pop(without_dots)
    average.finish()
    return weights


def _split(keys: KeyMap, prefix: str) -> KeyMap:
    """Take out all tensors under a prefix, and drop it from their names."""
    found = {k.removeprefix(prefix): keys.left.pop(k) for k in list(keys.left) if k.startswith(prefix)}
    return KeyMap(found, keys.source, prefix)


def _check_first_stage(stage: KeyMap, first: Mapping[str, Any], ddconfig: Mapping[str, Any], name: str) -> None:
    shape = EncoderShape.of(stage, "encoder.")
    codebook = stage.shape(CODEBOOK, 2) if CODEBOOK in stage.left else None
    found: dict[str, Any] = {
        "tanh_out": False,  # the two change what the decoder gives, and no weight shows them
        "give_pre_end": False,
        "ch": shape.widths[0],
        "ch_mult": [width // shape.widths[0] for width in shape.widths],
        "num_res_blocks": shape.blocks,
        "in_channels": shape.in_channels,
        "z_channels": shape.out_channels // (1 if codebook is not None else 2),
        "double_z": codebook is None,
    }
    if (side := whole(ddconfig, "resolution", name)) is not None:
        found["attn_resolutions"] = sorted(side // 2**i for i, attends in enumerate(shape.attention) if attends)
    check_agreement(with_sorted(ddconfig, "attn_resolutions"), found, name)
    if codebook is not None:
        check_agreement(first, {"n_embed": codebook[0], "embed_dim": codebook[1]}, name)


def _scheduler(model: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> DDPMScheduler:
    kind, prediction = model.get("beta_schedule", "linear"), model.get("parameterization", "eps")
    if kind not in list(_SCHEDULES):
        raise CheckpointError(f"{name}: beta_schedule is {shown(kind)}; expected {' or '.join(_SCHEDULES)}")
    if prediction not in list(_PREDICTIONS):
        raise CheckpointError(f"{name}: parameterization is {shown(prediction)}; expected {', '.join(_PREDICTIONS)}")
    scheduler = DDPMScheduler(
        num_train_timesteps=whole(model, "timesteps", name) or 1000,
        beta_start=number(model, "linear_start", 1e-4, name),
        beta_end=number(model, "linear_end", 2e-2, name),
        beta_schedule=_SCHEDULES[kind],
        prediction_type=_PREDICTIONS[prediction],
        clip_sample=False,
    )
    betas = tensors.get("betas")
    if betas is not None and (
        betas.shape != scheduler.betas.shape or not torch.allclose(betas.float(), scheduler.betas, rtol=1e-3, atol=0)
    ):
        raise CheckpointError(
            f"{name}: the schedule has {len(scheduler.betas)} steps of {float(scheduler.betas[0]):.4g} to "
            f"{float(scheduler.betas[-1]):.4g}, the checkpoint's {betas.numel()} betas say "
            "otherwise; expected the config of this checkpoint"
        )
    return scheduler
