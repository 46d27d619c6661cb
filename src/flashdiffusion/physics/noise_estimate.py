"""The noise of a measured image, estimated from the image itself."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError, sized

# High-pass filter of Daubechies' wavelet of four taps, which a linear ramp does not pass.
_HIGH_PASS = (-0.48296291314453416, 0.8365163037378079, -0.2241438680420134, -0.12940952255126037)
_NORMAL_MEDIAN = 0.6745  # of the magnitude of a standard normal number
FEWEST = 100  # places of the detail that a median is taken of


def estimate_noise_std(y: Tensor, measured: Tensor | None = None, bits: int | None = None) -> Tensor:
    """Estimate the standard deviation of white noise in measured images: the median of their finest diagonal detail.

    The estimator of Donoho and Johnstone (1994), as scikit-image's `estimate_sigma`. What an image has of such detail
    itself is taken for noise; blur leaves less of it. Noise that was clipped to [0, 1] is taken for weaker than it was.

    Args:
        y: images (B, C, H, W) on the [0, 1] scale.
        measured: 0 where an entry is no data, of the shape of y; None if all are.
        bits: that y was rounded to, 8 or 16 for a file of images, so that there is at least the noise of that; None if
            it was not.

    Returns:
        (B,), on the scale of y.

    Raises:
        InputError: y is no image, or one of them has fewer than 100 places where all of 4 x 4 pixels were measured.
    """
    if y.ndim != 4 or not y.is_floating_point():
        raise InputError(
            f"noise cannot be estimated from {y.dtype} measurements of shape {tuple(y.shape)}; expected images "
            "(B, C, H, W) of floats: give noise_std as a number"
        )
    taps = torch.tensor(_HIGH_PASS, dtype=y.dtype, device=y.device)
    high_pass = taps[:, None] * taps
    known = torch.ones_like(y) if measured is None else (measured != 0).to(y)
    whole = _filtered(known, torch.ones_like(high_pass)) > high_pass.numel() - 0.5
    if len(y) and (places := int(whole.sum(dim=1).min())) < FEWEST:
        raise InputError(
            f"noise cannot be estimated from an image of {sized(*y.shape[2:])} with {places} places where all of "
            f"4 x 4 pixels were measured; expected at least {FEWEST}: give noise_std as a number"
        )
    detail = _filtered(y, high_pass).abs().masked_fill(~whole, torch.nan)
    least = 0.0 if bits is None else 1 / ((2**bits - 1) * math.sqrt(12))
    return (detail.nanmedian(dim=1).values / _NORMAL_MEDIAN).clamp(min=least)


def _filtered(y: Tensor, kernel: Tensor) -> Tensor:
    """Correlate the channels of y (B, C, H, W) with a kernel (h, w), inside their borders; (B, n)."""
    if y.shape[2] < kernel.shape[0] or y.shape[3] < kernel.shape[1]:
        return y.new_zeros(len(y), 0)
    return F.conv2d(y.flatten(0, 1)[:, None], kernel[None, None]).reshape(len(y), -1)
