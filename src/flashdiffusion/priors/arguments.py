"""Values of a config, checked by the types that the network's constructor declares."""

import inspect
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_origin

from diffusers.models.autoencoders.vae import Encoder

from flashdiffusion.errors import CheckpointError, shown

LARGE = 1_000_000  # no size or number of channels comes near it
_LEVELS = 100  # nor does the number of levels or blocks come near this
# What no weight shows and a network would allocate by.
_ALLOWED: dict[str, tuple[Any, ...]] = {"downsample_padding": (0, 1)}


def check_arguments(cls: type, config: Mapping[str, Any], source: str) -> None:
    """Raise CheckpointError unless the values of a config have the types of a constructor's arguments."""
    for name, parameter in inspect.signature(cls).parameters.items():
        if name not in config:
            continue
        value, kind = config[name], parameter.annotation
        if name == "encoder_config" and isinstance(value, Mapping):
            check_arguments(Encoder, value, f"{source}, encoder_config")
        elif not is_kind(value, kind) or value not in _ALLOWED.get(name, (value,)):
            expected = (
                " or ".join(map(str, _ALLOWED.get(name, ())))
                or f"{inspect.formatannotation(kind)}, of size {LARGE} at most"
            )
            raise CheckpointError(f"{source}: {name} is {shown(value)}; expected {expected}")


def is_kind(value: object, kind: Any) -> bool:
    """Tell whether a JSON value has an annotated type, is finite and of a sane size; True for other types."""
    origin, options = get_origin(kind), get_args(kind)
    if kind in (bool, str, NoneType) or origin is dict:
        return isinstance(value, origin or kind)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool) and abs(value) <= LARGE
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return (
            isinstance(value, list | tuple) and len(value) <= _LEVELS and all(is_kind(one, options[0]) for one in value)
        )
    return not options or any(is_kind(value, one) for one in options)
