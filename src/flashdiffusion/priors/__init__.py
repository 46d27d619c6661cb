"""The latent diffusion prior: autoencoder, denoiser, noise schedule."""

from flashdiffusion.priors.autoencoder import DiffusersAutoencoder, IdentityAutoencoder
from flashdiffusion.priors.folder import (
    INDEX,
    check_files,
    load_component,
    read_json,
    resolve_folder,
    save_component,
    write_index,
)
from flashdiffusion.priors.latent import LatentPrior, load_autoencoder
from flashdiffusion.priors.light import LightDecoder, load_light_decoder
from flashdiffusion.priors.published import find_published

__all__ = [
    "INDEX",
    "DiffusersAutoencoder",
    "IdentityAutoencoder",
    "LatentPrior",
    "LightDecoder",
    "check_files",
    "find_published",
    "load_autoencoder",
    "load_component",
    "load_light_decoder",
    "read_json",
    "resolve_folder",
    "save_component",
    "write_index",
]
