"""Tuned hyperparameters of the embedded model `faces-128`; docs/results.md has the commands that found them."""

from flashdiffusion.methods import Settings
from flashdiffusion.types import Physics

PRESETS = {
    "gaussian-blur": Settings(eta=1.0, correction=1.2),
    "random-inpainting": Settings(eta=1.0, correction=1.2),
}
_DEFAULT = "gaussian-blur"


def preset_for_name(physics: str) -> Settings:
    """Settings for a kind of physics; those of Gaussian blur for a kind without any."""
    return PRESETS.get(physics, PRESETS[_DEFAULT])


def preset_for(physics: Physics) -> Settings:
    """Settings for this object's kind of physics, by its `name`."""
    return preset_for_name(getattr(physics, "name", _DEFAULT))
