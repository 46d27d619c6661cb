"""The severity that the encoder learns to predict."""

from torch import Tensor


def true_severity(z_hat: Tensor, z0: Tensor) -> Tensor:
    """Compute σ̄²(y, z0) = 1/(d-1) Σ (e_k - mean(e))², e = ẑ - z0 over the d entries of each latent; (B,)."""
    return (z_hat - z0).flatten(1).var(dim=1)
