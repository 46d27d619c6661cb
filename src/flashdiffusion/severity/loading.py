"""Severity encoders from their folders."""

from pathlib import Path

import torch

from flashdiffusion.data import write_json
from flashdiffusion.errors import CheckpointError, blamed_on
from flashdiffusion.priors import Autoencoder, load_component
from flashdiffusion.priors.folder import read_json
from flashdiffusion.severity.encoder import SeverityEncoder
from flashdiffusion.severity.patches import PatchSeverityEncoder


def load_severity_encoder(folder: Path, autoencoder: Autoencoder) -> SeverityEncoder:
    """Load the severity encoder of an autoencoder from its folder.

    Raises:
        CheckpointError: missing, of another class, weights that do not fit the config, or made for other latents.
    """
    name = read_json(folder / "config.json").get("_class_name")
    known = {cls.__name__: cls for cls in (SeverityEncoder, PatchSeverityEncoder)}
    cls = known.get(name, SeverityEncoder) if isinstance(name, str) else SeverityEncoder
    return check_latents(load_component(cls, folder), autoencoder, folder)


def multiply_variance(folder: Path, factor: float) -> float:
    """Multiply what the severity encoder of a folder gives as variances, in its config; returns the new scale.

    Raises:
        CheckpointError: no severity encoder there.
    """
    config = read_json(folder / "config.json")
    scale = config.get("variance_scale", 1.0) * factor
    write_json(folder / "config.json", config | {"variance_scale": scale})
    return float(scale)


@torch.no_grad()
def check_latents(encoder: SeverityEncoder, autoencoder: Autoencoder, source: Path) -> SeverityEncoder:
    """Return the encoder if it gives latents like the autoencoder's; else raise CheckpointError."""
    side = max(64, autoencoder.factor)
    with blamed_on(source):
        z_hat = encoder(torch.full((1, 3, side, side), 0.5)).z_hat
    found, expected = (z_hat.shape[1], side / z_hat.shape[2]), (autoencoder.channels, autoencoder.factor)
    if found != expected or not bool(z_hat.isfinite().all()):
        raise CheckpointError(
            f"{source}: severity encoder of {found[0]} latent channels at 1/{found[1]:g} of the image's side; expected "
            f"{expected[0]} at 1/{expected[1]}, as the autoencoder's"
        )
    return encoder
