"""Tuned hyperparameters of the embedded model `faces-128`; docs/results.md has the commands that found them.

A start near the end of the diffusion leaves few steps to be consistent in, hence the larger η.
"""

from flashdiffusion.methods import Settings
from flashdiffusion.types import Physics

# (physics, start) -> settings
PRESETS = {
    ("gaussian-blur", "flash"): Settings(eta=8.0, correction=0.2),
    ("gaussian-blur", "noise"): Settings(eta=1.0),
}
_DEFAULT = "gaussian-blur"


def preset_for(physics: str | Physics, start: str) -> Settings:
    """Settings for a kind of physics (its name, or an object's `name`) and a start rule's name.

    A kind without any of its own takes those of Gaussian blur; a start without any, those of "flash".
    """
    name = physics if isinstance(physics, str) else getattr(physics, "name", _DEFAULT)
    kind = name if (name, "flash") in PRESETS else _DEFAULT
    return PRESETS.get((kind, start), PRESETS[kind, "flash"])
