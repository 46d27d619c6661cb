"""Flash-Diffusion: sample-adaptive image restoration with latent diffusion priors."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashdiffusion.errors import CheckpointError, FlashDiffusionError, InputError
    from flashdiffusion.methods import Settings
    from flashdiffusion.physics import (
        HDR,
        JPEG,
        Blur,
        BlurKernelSpace,
        BoxInpainting,
        CameraNoise,
        CameraShake,
        Compose,
        Defocus,
        Denoising,
        GaussianBlur,
        Mixed,
        MotionBlur,
        Operator,
        PhaseRetrieval,
        RandomInpainting,
        SuperResolution,
        WithParams,
        estimate_noise_std,
    )
    from flashdiffusion.pipeline import Batch, FlashPipeline, Restoration, Restored
    from flashdiffusion.priors import DistilledDecoder, LatentPrior
    from flashdiffusion.regression import Regressor
    from flashdiffusion.severity import Severity, SeverityEncoder
    from flashdiffusion.solvers import (
        GMLDPS,
        PSLD,
        DDIMInversion,
        EncodedEstimate,
        Fixed,
        FromNoise,
        LatentDPS,
        RegressedEstimate,
        ReSample,
        SNRMatch,
        Transition,
    )

__version__ = "0.1.0"

# Resolved on first use, so that importing the package costs nothing.
_HOMES = {
    name: home
    for home, names in {
        "errors": "CheckpointError FlashDiffusionError InputError",
        "methods": "Settings",
        "physics": "Blur BlurKernelSpace BoxInpainting CameraNoise CameraShake Compose Defocus Denoising GaussianBlur "
        "HDR JPEG Mixed MotionBlur Operator PhaseRetrieval RandomInpainting SuperResolution WithParams "
        "estimate_noise_std",
        "pipeline": "Batch FlashPipeline Restoration Restored",
        "priors": "DistilledDecoder LatentPrior",
        "regression": "Regressor",
        "severity": "Severity SeverityEncoder",
        "solvers": "DDIMInversion EncodedEstimate Fixed FromNoise GMLDPS LatentDPS PSLD ReSample RegressedEstimate "
        "SNRMatch Transition",
    }.items()
    for name in names.split()
}

__all__ = [
    "Batch",
    "Blur",
    "BlurKernelSpace",
    "BoxInpainting",
    "CameraNoise",
    "CameraShake",
    "CheckpointError",
    "Compose",
    "DDIMInversion",
    "Defocus",
    "Denoising",
    "EncodedEstimate",
    "Fixed",
    "FlashDiffusionError",
    "FlashPipeline",
    "FromNoise",
    "GMLDPS",
    "GaussianBlur",
    "HDR",
    "InputError",
    "JPEG",
    "LatentDPS",
    "LatentPrior",
    "DistilledDecoder",
    "Mixed",
    "MotionBlur",
    "Operator",
    "PSLD",
    "PhaseRetrieval",
    "RandomInpainting",
    "ReSample",
    "RegressedEstimate",
    "Regressor",
    "Restoration",
    "Restored",
    "SNRMatch",
    "Settings",
    "Severity",
    "SeverityEncoder",
    "SuperResolution",
    "Transition",
    "WithParams",
    "__version__",
    "estimate_noise_std",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flashdiffusion' has no attribute {name!r}")
    return getattr(import_module(f"flashdiffusion.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
