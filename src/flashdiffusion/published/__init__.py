"""The published checkpoints of the field, converted into the models of this library; one file per layout."""

from flashdiffusion.published.load import find_published, load_published
from flashdiffusion.published.severity import load_published_severity

__all__ = ["find_published", "load_published", "load_published_severity"]
