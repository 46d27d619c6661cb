"""Restoration by supervised regression, the baseline without a diffusion prior."""

from flashdiffusion.regression.regressor import Regressor

__all__ = ["Regressor"]
