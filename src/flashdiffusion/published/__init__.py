"""The published checkpoints of the field, converted into the models of this library; one file per layout."""

from flashdiffusion.published.files import find_published
from flashdiffusion.published.load import load_published
from flashdiffusion.published.severity import load_published_severity

__all__ = ["find_published", "load_published", "load_published_severity"]
