"""Flash-Diffusion: sample-adaptive image restoration with latent diffusion priors."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashdiffusion.errors import CheckpointError, FlashDiffusionError, InputError
    from flashdiffusion.methods import Settings
    from flashdiffusion.physics import GaussianBlur, RandomInpainting, WithParams
    from flashdiffusion.pipeline import FlashPipeline, Restoration
    from flashdiffusion.priors import LatentPrior
    from flashdiffusion.sampling import Fixed, FromNoise, LatentDPS, SNRMatch, Transition
    from flashdiffusion.severity import Severity, SeverityEncoder

__version__ = "0.1.0"

# Resolved on first use, so that importing the package costs nothing.
_HOMES = {
    "CheckpointError": "errors",
    "FlashDiffusionError": "errors",
    "InputError": "errors",
    "Settings": "methods",
    "GaussianBlur": "physics",
    "RandomInpainting": "physics",
    "WithParams": "physics",
    "FlashPipeline": "pipeline",
    "Restoration": "pipeline",
    "LatentPrior": "priors",
    "Fixed": "sampling",
    "FromNoise": "sampling",
    "LatentDPS": "sampling",
    "SNRMatch": "sampling",
    "Transition": "sampling",
    "Severity": "severity",
    "SeverityEncoder": "severity",
}

__all__ = [
    "CheckpointError",
    "Fixed",
    "FlashDiffusionError",
    "FlashPipeline",
    "FromNoise",
    "GaussianBlur",
    "InputError",
    "LatentDPS",
    "LatentPrior",
    "RandomInpainting",
    "Restoration",
    "SNRMatch",
    "Settings",
    "Severity",
    "SeverityEncoder",
    "Transition",
    "WithParams",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flashdiffusion' has no attribute {name!r}")
    return getattr(import_module(f"flashdiffusion.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
