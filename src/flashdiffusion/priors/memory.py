"""What diffusers offers to fit large networks into memory, used where it exists."""

from collections.abc import Iterator
from typing import Any

from flashdiffusion.errors import InputError
from flashdiffusion.priors.autoencoder import DiffusersAutoencoder
from flashdiffusion.priors.latent import LatentPrior


def enable_attention_slicing(prior: LatentPrior, slice_size: str | int = "auto") -> None:
    """Let the denoiser's attention go head by head; slower, and of use where torch has no fused attention.

    Raises:
        InputError: a network that has no slices.
    """
    if not hasattr(network := prior.denoiser, "set_attention_slice"):
        raise InputError(
            f"a {type(network).__name__} has no attention slicing; torch's own attention keeps no large matrices, so "
            "that it needs none"
        )
    network.set_attention_slice(slice_size)


def enable_vae_tiling(prior: LatentPrior) -> None:
    """Let the autoencoder work on tiles that overlap, where images are larger than it knows.

    Raises:
        InputError: an autoencoder without tiles.
    """
    network = _network(prior)
    if not hasattr(network, "use_tiling"):
        raise InputError(
            f"a {type(network or prior.autoencoder).__name__} has no tiling; restore the picture in tiles, by tile=256"
        )
    network.enable_tiling()


def enable_gradient_checkpointing(prior: LatentPrior) -> None:
    """Keep few activations of denoiser and decoder for the gradient, and compute the others again.

    Raises:
        InputError: neither network can.
    """
    networks = [one for one in (prior.denoiser, _network(prior)) if _checkpoints(one)]
    if not networks:
        names = " nor ".join(type(one).__name__ for one in (prior.denoiser, _network(prior) or prior.autoencoder))
        raise InputError(f"gradient checkpointing: neither {names} has it; take proximal, which needs less memory")
    for network in networks:
        network.enable_gradient_checkpointing()


def refuse_offload() -> InputError:
    """Make the error for moving networks to the CPU between calls."""
    return InputError(
        "model offload is not supported: a step calls denoiser and decoder in turn, its gradient goes through both, "
        "and each would travel twice a step; take dtype=torch.float16 or bfloat16, enable_gradient_checkpointing(), "
        "enable_vae_tiling(), or tile=256. Text encoders are never on the GPU"
    )


def _network(prior: LatentPrior) -> Any:
    own = prior.autoencoder
    return own.model if isinstance(own, DiffusersAutoencoder) else None


def _checkpoints(network: Any) -> bool:
    return bool(getattr(network, "_supports_gradient_checkpointing", False)) and any(_flags(network))


def _flags(network: Any) -> Iterator[bool]:
    return (hasattr(layer, "gradient_checkpointing") for layer in network.modules())
