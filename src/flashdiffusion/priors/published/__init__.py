"""The published checkpoints of the field, brought into diffusers' models; one file per layout."""

from flashdiffusion.priors.published.files import find_published
from flashdiffusion.priors.published.load import Components, load_published

__all__ = ["Components", "find_published", "load_published"]
