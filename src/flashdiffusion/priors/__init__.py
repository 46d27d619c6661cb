"""The latent diffusion prior: autoencoder, denoiser, noise schedule."""

from flashdiffusion.priors.autoencoder import DiffusersAutoencoder, IdentityAutoencoder
from flashdiffusion.priors.distilled import DistilledDecoder, load_distilled_decoder
from flashdiffusion.priors.folder import (
    INDEX,
    check_files,
    load_component,
    read_index,
    read_json,
    resolve_folder,
    save_component,
    write_index,
)
from flashdiffusion.priors.latent import LatentPrior, load_autoencoder

__all__ = [
    "INDEX",
    "DiffusersAutoencoder",
    "IdentityAutoencoder",
    "LatentPrior",
    "DistilledDecoder",
    "check_files",
    "load_autoencoder",
    "load_component",
    "load_distilled_decoder",
    "read_index",
    "read_json",
    "resolve_folder",
    "save_component",
    "write_index",
]
