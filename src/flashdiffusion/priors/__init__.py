"""The latent diffusion prior: autoencoder, denoiser, noise schedule."""

from flashdiffusion.priors.autoencoder import Autoencoder, DiffusersAutoencoder, IdentityAutoencoder
from flashdiffusion.priors.folder import load_component, read_json, resolve_folder
from flashdiffusion.priors.latent import LatentPrior

__all__ = [
    "Autoencoder",
    "DiffusersAutoencoder",
    "IdentityAutoencoder",
    "LatentPrior",
    "load_component",
    "read_json",
    "resolve_folder",
]
