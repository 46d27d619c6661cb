"""What a training run is made of; the named recipes are in `recipes.py`."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LoopConfig:
    """Settings of the loop that a stage can choose.

    `share` is the stage's part of `--max-minutes` in `train all` (of the recipe's minutes, if `all` leaves the stage
    out); learning rate: linear warm-up over `warmup` of the time box, then cosine to 0.
    """

    share: float
    batch_size: int
    lr: float
    warmup: float = 0.02
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float | None = None


@dataclass(frozen=True)
class AutoencoderConfig:
    """Stage 1: L1 + LPIPS + KL, and a patch discriminator in the last part of the run."""

    loop: LoopConfig
    model: dict[str, Any]  # arguments of diffusers.AutoencoderKL
    lpips_weight: float = 0.3
    kl_weight: float = 1e-5
    adversarial_weight: float = 0.0
    adversarial_from: float = 0.5  # part of the time box after which the discriminator joins


@dataclass(frozen=True)
class PatchConfig:
    """In place of stage 1: a patch autoencoder, which has nothing to train; see `PatchAutoencoder.fitted`."""

    patch: int = 2
    exponent: float = 0.0


@dataclass(frozen=True)
class DenoiserConfig:
    """Stage 2: the noise-prediction loss of DDPM on latents, or on pixels (`space`), where it needs no autoencoder.

    `early_share` of the times are drawn from the first `early` part of the schedule, where restorations run once the
    severity encoder is there; the others from all of it.
    """

    loop: LoopConfig
    model: dict[str, Any]  # arguments of diffusers.UNet2DModel
    schedule: dict[str, Any]  # arguments of diffusers.DDPMScheduler
    space: str = "latent"  # or "pixel"
    early_share: float = 0.5
    early: float = 0.3


@dataclass(frozen=True)
class SeverityConfig:
    """Stage 3: L = |zhat - z0|^2 / d + severity_weight * l(var, true var) + image_weight * |x - D0(zhat)|^2 / n.

    The image term, the dearest one, is estimated on `image_share` in (0, 1] of each global batch.
    """

    loop: LoopConfig
    model: dict[str, Any] | None = None  # of a patch autoencoder: arguments of diffusers.UNet2DModel
    head: str = "log-variance"  # or "paper"
    severity_weight: float = 0.05
    image_weight: float = 1.0
    image_share: float = 1.0
    refine_layers: int = 12  # residual blocks that the encoder has beyond the autoencoder's
    conditions: bool = True  # whether the encoder can be told what is known beside y
    task: str = "mixture-and-holes"
    noise_std: tuple[float, float] = (0.0, 0.3)  # range of σ_y, faint noise more often


@dataclass(frozen=True)
class RegressorConfig:
    """The supervised baseline: sqrt((R(y) - x)^2 + epsilon^2), degraded like the severity encoder's images."""

    loop: LoopConfig
    model: dict[str, Any]  # arguments of regression.Regressor
    task: str = "mixture-and-holes"
    noise_std: tuple[float, float] = (0.0, 0.3)  # range of σ_y, faint noise more often
    epsilon: float = 1e-3


@dataclass(frozen=True)
class DistilledDecoderConfig:
    """The distilled decoder: |L(z) - D0(z)|^2 / n at z = E0(x) + s noise, s ~ U[noise_std] per image."""

    loop: LoopConfig
    model: dict[str, Any]  # arguments of priors.DistilledDecoder beside the autoencoder's
    noise_std: tuple[float, float] = (0.0, 0.3)  # of standardised latents


StageConfig = AutoencoderConfig | DenoiserConfig | SeverityConfig | RegressorConfig | DistilledDecoderConfig


@dataclass(frozen=True)
class Recipe:
    """A whole training run: four stages and an optional one, one image size, one time box."""

    name: str
    size: int
    max_minutes: float
    autoencoder: AutoencoderConfig | PatchConfig
    denoiser: DenoiserConfig
    severity: SeverityConfig
    regressor: RegressorConfig
    distilled_decoder: DistilledDecoderConfig  # optional: not of `train all`
    pixel_denoiser: DenoiserConfig  # takes the denoiser's place in pixel space
    precision: str = "bf16"  # accelerate's mixed_precision
    seed: int = 0
    channels_last: bool = False
    compile: bool = False
    log_seconds: float = 5.0
    checkpoint_minutes: float = 2.0
    grid_minutes: float = 5.0
    cache_gib: float = field(default=4.0)
    crops: float | None = None  # random crops, shrunk to this at the least, in place of whole images
