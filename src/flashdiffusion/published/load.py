"""Which layout is it? A checkpoint file as the components of a prior."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel, VQModel

from flashdiffusion.errors import CheckpointError
from flashdiffusion.published.config import read_config
from flashdiffusion.published.files import find_config
from flashdiffusion.published.guided import load_guided
from flashdiffusion.published.latent_diffusion import UNET, load_latent_diffusion
from flashdiffusion.published.tensors import read_tensors


@dataclass(frozen=True)
class Components:
    """Models of a prior; a pixel-space one has no autoencoder."""

    autoencoder: AutoencoderKL | VQModel | None
    denoiser: UNet2DModel
    scheduler: DDPMScheduler


def load_published(path: Path, config: str | Path | None = None, sha256: str | None = None) -> Components:
    """Load a latent-diffusion or guided-diffusion checkpoint; the keys say which it is.

    Args:
        path: model.ckpt, ffhq_10m.pt or the like.
        config: YAML or JSON; default: the file of the same name beside it, or, for latent diffusion, config.yaml.
        sha256: the file's expected SHA-256, in hexadecimal.

    Raises:
        CheckpointError: neither layout, or anything in it that does not fit.
    """
    tensors = read_tensors(path, sha256)
    if any(key.startswith(UNET) for key in tensors):
        found = Path(config) if config else find_config(path, ("config.yaml", "config.yml"))
        if found is None:
            raise CheckpointError(
                f"no config beside {path}; expected config.yaml of latent-diffusion there, or give it with --config"
            )
        return Components(*load_latent_diffusion(tensors, read_config(found), path, found))
    if "input_blocks.0.0.weight" in tensors:
        found = Path(config) if config else find_config(path)
        return Components(*load_guided(tensors, read_config(found) if found else {}, path, found))
    raise CheckpointError(f"{path} {_likeness(tensors)}; expected a latent-diffusion or a guided-diffusion checkpoint")


def _likeness(keys: Iterable[str]) -> str:
    """What the keys look like, for those who took one file for another."""
    names = list(keys)
    if any(name.endswith("std_conv.weight") for name in names):
        return "is a severity encoder (it goes to --severity)"
    if any(name.startswith("encoder.") for name in names):
        return "is a first stage alone, without a diffusion model"
    return f"has keys such as {min(names)}"
