"""The named recipes of `flashdiffusion train --config NAME`.

`faces-128` and `faces-128-cpu` are one recipe with two budgets: the same networks and losses; batch size,
learning rate and the adversarial term, which pays only late in a long run, follow the budget. The networks
are chosen for what a solver step costs: at 128 x 128 the decoder takes about as many GFLOP as the denoiser
(docs/training.md has the measured figures).
"""

from dataclasses import replace

from flashdiffusion.errors import check_name
from flashdiffusion.training.config import (
    AutoencoderConfig,
    DenoiserConfig,
    DistilledDecoderConfig,
    LoopConfig,
    PatchConfig,
    Recipe,
    RegressorConfig,
    SeverityConfig,
)

_AUTOENCODER = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [16, 48, 96],
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 16,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
    "sample_size": 128,
}
_DENOISER = {
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": [96, 160, 224],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "attention_head_dim": 32,
    "norm_num_groups": 32,
}
# Of the pixel-space baselines, DPS and CCDF-DPS.
_PIXEL_DENOISER = {
    "sample_size": 128,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [24, 48, 96, 160],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"] * 3 + ["AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D"] + ["UpBlock2D"] * 3,
    "attention_head_dim": 32,
    "norm_num_groups": 8,
}
# CompVis latent diffusion's schedule.
_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "clip_sample": False,
}
# DDPM's, which the published pixel-space priors were trained with.
_PIXEL_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "clip_sample": False,
}
_REGRESSOR = {"stride": 4, "width": 60, "depths": [4, 4], "heads": 6, "window": 8, "mlp_ratio": 2}
_LIGHT_DECODER = {"width": 64, "layers": 2}

_KL_CPU = AutoencoderConfig(loop=LoopConfig(share=0.35, batch_size=8, lr=5e-4), model=_AUTOENCODER, lpips_weight=0.5)
_FACES_128_CPU = Recipe(
    name="faces-128-cpu",
    size=128,
    max_minutes=180,
    autoencoder=_KL_CPU,
    denoiser=DenoiserConfig(
        loop=LoopConfig(share=0.30, batch_size=32, lr=5e-4, ema_decay=0.999),
        model=_DENOISER,
        schedule=_SCHEDULE,
    ),
    severity=SeverityConfig(loop=LoopConfig(share=0.25, batch_size=16, lr=5e-4), image_share=0.25),
    regressor=RegressorConfig(loop=LoopConfig(share=0.10, batch_size=4, lr=1e-3), model=_REGRESSOR),
    distilled_decoder=DistilledDecoderConfig(loop=LoopConfig(share=0.10, batch_size=8, lr=2e-3), model=_LIGHT_DECODER),
    pixel_denoiser=DenoiserConfig(
        loop=LoopConfig(share=0.90, batch_size=8, lr=5e-4, ema_decay=0.999),
        model=_PIXEL_DENOISER,
        schedule=_PIXEL_SCHEDULE,
        space="pixel",
    ),
)
_FACES_128 = replace(
    _FACES_128_CPU,
    name="faces-128",
    max_minutes=25,
    channels_last=True,
    autoencoder=replace(
        _KL_CPU,
        loop=LoopConfig(share=0.4, batch_size=64, lr=1e-3),
        adversarial_weight=0.05,
        adversarial_from=0.6,
    ),
    denoiser=replace(_FACES_128_CPU.denoiser, loop=LoopConfig(share=0.30, batch_size=512, lr=8e-4, ema_decay=0.999)),
    severity=replace(_FACES_128_CPU.severity, loop=LoopConfig(share=0.20, batch_size=256, lr=1e-3, ema_decay=0.999)),
    regressor=replace(_FACES_128_CPU.regressor, loop=LoopConfig(share=0.10, batch_size=64, lr=1e-3)),
    distilled_decoder=replace(_FACES_128_CPU.distilled_decoder, loop=LoopConfig(share=0.10, batch_size=64, lr=3e-3)),
    pixel_denoiser=replace(
        _FACES_128_CPU.pixel_denoiser, loop=LoopConfig(share=0.90, batch_size=64, lr=1e-3, ema_decay=0.9995)
    ),
)
# For the tests and for trying out a command: seconds, not a usable model.
_TINY = replace(
    _FACES_128_CPU,
    name="tiny",
    size=32,
    max_minutes=1,
    log_seconds=0.0,
    precision="no",
    autoencoder=AutoencoderConfig(
        loop=LoopConfig(share=0.3, batch_size=4, lr=1e-3),
        model=_AUTOENCODER | {"block_out_channels": [8, 8, 16], "norm_num_groups": 4, "sample_size": 32},
        lpips_weight=0.0,
    ),
    denoiser=DenoiserConfig(
        loop=LoopConfig(share=0.3, batch_size=4, lr=1e-3, ema_decay=0.9),
        model=_DENOISER
        | {"sample_size": 8, "block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 8}
        | {
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        },
        schedule=_SCHEDULE,
    ),
    severity=SeverityConfig(loop=LoopConfig(share=0.3, batch_size=4, lr=1e-3)),
    regressor=RegressorConfig(
        loop=LoopConfig(share=0.1, batch_size=4, lr=1e-3), model=_REGRESSOR | {"width": 24, "depths": [2], "heads": 2}
    ),
    distilled_decoder=DistilledDecoderConfig(
        loop=LoopConfig(share=0.1, batch_size=4, lr=2e-3), model={"width": 16, "layers": 1}
    ),
    pixel_denoiser=replace(
        _FACES_128_CPU.pixel_denoiser,
        loop=LoopConfig(share=0.9, batch_size=4, lr=1e-3, ema_decay=0.9),
        model=_PIXEL_DENOISER
        | {"sample_size": 32, "block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 8}
        | {
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        },
    ),
)
# Any photograph: convolutions alone, so that sides need only be multiples of 8, on patches, which bound nothing.
_PHOTOS_DENOISER = {
    "sample_size": 48,
    "in_channels": 12,
    "out_channels": 12,
    "block_out_channels": [64, 96, 128],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"] * 3,
    "up_block_types": ["UpBlock2D"] * 3,
    "add_attention": False,
    "norm_num_groups": 16,
}
# Begins at noise of 1/200 of the range of pixels.
_PHOTOS_SCHEDULE = _SCHEDULE | {"beta_start": 0.0001, "beta_end": 0.02}
_PHOTOS_CPU = replace(
    _FACES_128_CPU,
    name="photos-cpu",
    size=72,
    crops=0.5,
    max_minutes=600,
    autoencoder=PatchConfig(patch=2),
    denoiser=DenoiserConfig(
        loop=LoopConfig(share=0.45, batch_size=8, lr=5e-4, ema_decay=0.999),
        model=_PHOTOS_DENOISER,
        schedule=_PHOTOS_SCHEDULE,
        early=0.4,
    ),
    severity=SeverityConfig(
        loop=LoopConfig(share=0.45, batch_size=8, lr=5e-4, ema_decay=0.999),
        model=_PHOTOS_DENOISER,
        image_weight=0.0,
        task="photographs",
        noise_std=(0.0, 0.2),
    ),
    regressor=replace(_FACES_128_CPU.regressor, task="photographs", noise_std=(0.0, 0.2)),
)
_PHOTOS = replace(
    _PHOTOS_CPU,
    name="photos",
    size=120,
    max_minutes=25,
    channels_last=True,
    denoiser=replace(_PHOTOS_CPU.denoiser, loop=LoopConfig(share=0.45, batch_size=128, lr=1e-3, ema_decay=0.999)),
    severity=replace(_PHOTOS_CPU.severity, loop=LoopConfig(share=0.45, batch_size=96, lr=1e-3, ema_decay=0.999)),
    regressor=replace(_PHOTOS_CPU.regressor, loop=_FACES_128.regressor.loop),
    pixel_denoiser=_FACES_128.pixel_denoiser,
)
_TINY_MODEL = {"sample_size": 16, "block_out_channels": [8, 16], "norm_num_groups": 4}
_TINY_MODEL |= {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
_TINY_PHOTOS = replace(
    _TINY,
    name="tiny-photos",
    size=48,
    crops=0.5,
    autoencoder=_PHOTOS_CPU.autoencoder,
    denoiser=replace(
        _TINY.denoiser,
        loop=replace(_TINY.denoiser.loop, share=0.45),
        model=_PHOTOS_DENOISER | _TINY_MODEL,
        schedule=_PHOTOS_SCHEDULE,
    ),
    severity=replace(
        _PHOTOS_CPU.severity,
        loop=LoopConfig(share=0.45, batch_size=4, lr=1e-3),
        model=_PHOTOS_DENOISER | _TINY_MODEL,
    ),
    regressor=replace(_TINY.regressor, task="photographs", noise_std=(0.0, 0.2)),
)
RECIPES = {recipe.name: recipe for recipe in (_FACES_128, _FACES_128_CPU, _PHOTOS, _PHOTOS_CPU, _TINY, _TINY_PHOTOS)}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: unknown name.
    """
    check_name("config", name, RECIPES)
    return RECIPES[name]
