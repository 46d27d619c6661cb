"""Ordering accuracy, Definition 1 of the paper."""

from torch import Tensor

from flashdiffusion.errors import InputError


def ordering_accuracy(severities: Tensor) -> Tensor:
    """Compute the share of level pairs (i < j) with severity_i < severity_j, per image.

    Args:
        severities: (B, n), one column per level of degradation, mildest first.

    Returns:
        (B,) in [0, 1].

    Raises:
        InputError: fewer than two levels.
    """
    if severities.ndim != 2 or severities.shape[1] < 2:
        raise InputError(f"severities of shape {tuple(severities.shape)}; expected (images, levels >= 2)")
    n = severities.shape[1]
    ordered = severities[:, :, None] < severities[:, None, :]
    return ordered.triu(diagonal=1).sum(dim=(1, 2)) / (n * (n - 1) / 2)
