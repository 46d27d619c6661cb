"""The latent diffusion prior: autoencoder, denoiser, noise schedule."""

from flashdiffusion.priors.autoencoder import DiffusersAutoencoder, IdentityAutoencoder
from flashdiffusion.priors.denoisers import Conditions, Denoiser, register_denoiser
from flashdiffusion.priors.distilled import DistilledDecoder, TinyDecoder, load_distilled_decoder
from flashdiffusion.priors.folder import load_component, save_component
from flashdiffusion.priors.latent import LatentPrior, load_autoencoder, resolve_for
from flashdiffusion.priors.patches import Autoencoder, PatchAutoencoder

__all__ = [
    "Autoencoder",
    "Conditions",
    "Denoiser",
    "PatchAutoencoder",
    "DiffusersAutoencoder",
    "IdentityAutoencoder",
    "LatentPrior",
    "DistilledDecoder",
    "TinyDecoder",
    "load_autoencoder",
    "load_component",
    "load_distilled_decoder",
    "register_denoiser",
    "resolve_for",
    "save_component",
]
