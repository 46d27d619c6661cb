"""Denoisers of every family behind one convention; a file of this folder each."""

from importlib import import_module
from pkgutil import iter_modules

from flashdiffusion.priors.denoisers.base import (
    FAMILIES,
    Conditions,
    Denoiser,
    as_denoiser,
    load_denoiser,
    register_denoiser,
)

__all__ = ["FAMILIES", "Conditions", "Denoiser", "as_denoiser", "load_denoiser", "register_denoiser"]

# Every file of this folder is read, so that one which registers a family need not be named anywhere.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
