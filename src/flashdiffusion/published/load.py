"""Finds a published checkpoint and its config, and loads it as a prior, whichever layout it has."""

from collections.abc import Iterable
from pathlib import Path

from flashdiffusion.errors import CheckpointError, blamed_on
from flashdiffusion.priors import DiffusersAutoencoder, IdentityAutoencoder, LatentPrior
from flashdiffusion.priors.refused import reason_for_tensors
from flashdiffusion.priors.tensors import read_tensors
from flashdiffusion.published.config import read_config
from flashdiffusion.published.guided import load_guided
from flashdiffusion.published.latent_diffusion import UNET, load_latent_diffusion

SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")
MODEL = "model.ckpt"


def find_published(source: str | Path) -> Path | None:
    """Find the checkpoint file that `source` is or holds; None for folders in diffusers' layout and hub ids.

    Raises:
        CheckpointError: it is named as a file, but is none; or a file of another kind.
    """
    path = Path(source)
    if path.is_dir():
        return path / MODEL if (path / MODEL).is_file() and not (path / "scheduler").is_dir() else None
    if path.suffix in SUFFIXES and path.is_file():
        return path
    if path.suffix in SUFFIXES:
        raise CheckpointError(f"no file {path}; expected a checkpoint")
    return None


def find_config(checkpoint: Path, names: tuple[str, ...] = ()) -> Path | None:
    """Find the config beside a checkpoint: one of the same name, or of `names`."""
    same = [checkpoint.with_suffix(suffix) for suffix in (".yaml", ".yml", ".json")]
    for path in [*same, *(checkpoint.with_name(name) for name in names)]:
        if path.is_file():
            return path
    return None


def load_published(source: str | Path, config: str | Path | None = None, sha256: str | None = None) -> LatentPrior:
    """Load a latent-diffusion or guided-diffusion checkpoint; the keys say which it is. Code in it is not executed.

    Args:
        source: model.ckpt or its folder, ffhq_10m.pt or the like.
        config: YAML or JSON; default: the file of the same name beside it, or, for latent diffusion, config.yaml.
        sha256: the file's expected SHA-256, in hexadecimal.

    Raises:
        CheckpointError: neither layout, or anything in it that does not fit.
    """
    if (path := find_published(source)) is None:
        raise CheckpointError(f"{source} is no published checkpoint; expected model.ckpt, its folder, or a .pt file")
    tensors = read_tensors(path, sha256)
    if reason := reason_for_tensors(tensors):
        raise CheckpointError(f"{path} {reason}")
    with blamed_on(path):
        if any(key.startswith(UNET) for key in tensors):
            found = Path(config) if config else find_config(path, ("config.yaml", "config.yml"))
            if found is None:
                raise CheckpointError(
                    f"no config beside {path}; expected config.yaml of latent-diffusion there, or give it with --config"
                )
            stage, *rest = load_latent_diffusion(tensors, read_config(found), path, found)
            return LatentPrior(DiffusersAutoencoder(stage), *rest).tried(str(path))
        if "input_blocks.0.0.weight" in tensors:
            found = Path(config) if config else find_config(path)
            parts = load_guided(tensors, read_config(found) if found else {}, path, found)
            return LatentPrior(IdentityAutoencoder(), *parts).tried(str(path))
    raise CheckpointError(f"{path} {_likeness(tensors)}; expected a latent-diffusion or a guided-diffusion checkpoint")


def _likeness(keys: Iterable[str]) -> str:
    """Guess what the file is from its keys, for the error message."""
    names = list(keys)
    if any(name.endswith("std_conv.weight") for name in names):
        return "is a severity encoder (it goes to --severity)"
    if any(name.startswith("encoder.") for name in names):
        return "is a first stage alone, without a diffusion model"
    if any(name.startswith(("down_blocks.", "transformer_blocks.")) for name in names):
        return "is a network of diffusers without its config (give the folder of the whole model)"
    return f"has keys such as {min(names)}"
