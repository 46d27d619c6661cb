"""The latent diffusion prior: autoencoder, denoiser, noise schedule."""

from flashdiffusion.priors.autoencoder import DiffusersAutoencoder, IdentityAutoencoder
from flashdiffusion.priors.distilled import DistilledDecoder, load_distilled_decoder
from flashdiffusion.priors.folder import load_component, save_component
from flashdiffusion.priors.latent import LatentPrior, load_autoencoder
from flashdiffusion.priors.patches import Autoencoder, PatchAutoencoder

__all__ = [
    "Autoencoder",
    "PatchAutoencoder",
    "DiffusersAutoencoder",
    "IdentityAutoencoder",
    "LatentPrior",
    "DistilledDecoder",
    "load_autoencoder",
    "load_component",
    "load_distilled_decoder",
    "save_component",
]
