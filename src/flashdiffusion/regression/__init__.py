"""Restoration by supervised regression, the baseline without a diffusion prior."""

from flashdiffusion.regression.regressor import Regressor, load_regressor

__all__ = ["Regressor", "load_regressor"]
