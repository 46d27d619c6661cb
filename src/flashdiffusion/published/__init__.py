"""The published checkpoints of the field, brought into diffusers' models; one file per layout."""

from flashdiffusion.published.files import find_published
from flashdiffusion.published.load import Components, load_published

__all__ = ["Components", "find_published", "load_published"]
