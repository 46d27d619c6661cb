"""A network and its weights, compared before anything of the network is allocated."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from diffusers.models.embeddings import PatchEmbed, get_2d_sincos_pos_embed
from diffusers.utils import logging
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from flashdiffusion.errors import CheckpointError, blamed_on

T = TypeVar("T", bound=nn.Module)
_MOST_POSITIONS = 2**27


def outline(make: Callable[[], T], tensors: Mapping[str, Tensor], source: str) -> T:
    """Build the network that `make` gives on torch's meta device, where layers of any size take no memory.

    Raises:
        CheckpointError: a config that makes no network, or one of many more parameters than there are tensors.
    """
    limit = 2 * len(tensors) + 100
    with blamed_on(f"{source}: no network can be made of its config"), torch.device("meta"), _quiet(), _at_most(limit):
        return make()


def fill(
    model: T,
    tensors: Mapping[str, Tensor],
    source: str,
    names: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> T:
    """Give an outline its weights, as `dtype`, in eval mode; what is allocated has the size of the weights.

    Args:
        tensors: all its parameters and buffers by name.
        source: what the messages call the checkpoint.
        names: of the tensors in the checkpoint, where they differ.
        dtype: what they become.

    Raises:
        CheckpointError: weights that do not fit the network or are not finite.
    """
    names = names or {}
    expected = model.state_dict()
    for name, tensor in tensors.items():
        key = names.get(name, name)
        if name not in expected:
            raise CheckpointError(f"{source}: no place for {key} in the network that its config makes")
        if tensor.shape != expected[name].shape or not tensor.is_floating_point():
            raise CheckpointError(
                f"{source}: {key} has shape {tuple(tensor.shape)} and {tensor.dtype}; "
                f"expected {tuple(expected[name].shape)} of floats, as its config says"
            )
    if missing := sorted(expected.keys() - tensors.keys()):
        raise CheckpointError(f"{source} has nothing for {missing[0]}; expected it: is the file complete?")
    # Copied, since the tensors may be a view of the file, which can change.
    own = {name: tensor.to(dtype, copy=True).contiguous() for name, tensor in tensors.items()}
    for name, tensor in own.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{source}: the weights {names.get(name, name)} hold NaN or infinite values; take another checkpoint"
            )
    model.load_state_dict(own, assign=True)
    _compute_positions(model, dtype)
    if unset := [name for name, buffer in model.named_buffers() if buffer.is_meta]:
        raise CheckpointError(f"{source}: a layer with {unset[0]}, which no weights give, is not supported")
    return model.eval()


def _compute_positions(model: nn.Module, dtype: torch.dtype) -> None:
    """Compute what transformers add to patches by their position, where no weights give it."""
    for layer in model.modules():
        if isinstance(layer, PatchEmbed) and layer.pos_embed is not None and layer.pos_embed.is_meta:
            if (count := layer.pos_embed.numel()) > _MOST_POSITIONS:
                raise CheckpointError(f"its config asks for {count} numbers of positions; expected its own sample_size")
            values = get_2d_sincos_pos_embed(
                layer.pos_embed.shape[-1],
                int(layer.pos_embed.shape[1] ** 0.5),
                base_size=layer.base_size,
                interpolation_scale=layer.interpolation_scale,
                output_type="pt",
            )
            layer.pos_embed = values.float()[None].to(dtype)


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Raise in this thread if more parameters are made: a config can ask for any number of layers."""
    made, thread = 0, threading.get_ident()

    def hook(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal made
        made += threading.get_ident() == thread
        if made > count:
            raise ValueError(f"it asks for more than {count} parameters; expected as many as there are weights")

    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence diffusers' warnings about config values that it does not use."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
