"""The configuration beside a checkpoint, and what the weights say of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashdiffusion.data import read_bytes
from flashdiffusion.errors import CheckpointError, blamed_on, brief, shown
from flashdiffusion.priors.arguments import LARGE

LARGEST = 50_000  # bytes; those of the field have a few thousand, and YAML is read slowly


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON mapping, class names in it as text; raises CheckpointError if it is missing or none."""
    import yaml

    with blamed_on(f"cannot read config {path}"):
        text = read_bytes(path, LARGEST).decode()
        try:
            value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except RecursionError:
            raise CheckpointError(f"config {path} nests too deeply; expected names with values") from None
        except (ValueError, yaml.YAMLError) as error:
            raise CheckpointError(f"config {path} is neither YAML nor JSON: {brief(error, 120)}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"config {path} holds a {type(value).__name__}; expected names with values")
    return value


def section(config: Mapping[str, Any], *names: str, source: str) -> dict[str, Any]:
    """Return a nested mapping of a config; raises CheckpointError if it is not there."""
    value: Any = config
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{source} has no section {'.'.join(names)}; expected the config of this checkpoint")
    return dict(value)


def check_agreement(config: Mapping[str, Any], found: Mapping[str, Any], source: str) -> None:
    """Raise CheckpointError if a value of the config is not what the weights have; absent ones are not compared."""
    for name, value in found.items():
        if name in config and config[name] is not None and config[name] != value:
            raise CheckpointError(
                f"{source}: {name} is {shown(config[name])}, but the weights have {value}; "
                "expected the config of this checkpoint"
            )


def number(config: Mapping[str, Any], name: str, default: float, source: str) -> float:
    """Read a positive number of a config; text such as "1e-4", which YAML leaves as text, counts as one.

    Raises:
        CheckpointError: it is not one.
    """
    value = config.get(name, default)
    try:
        found = float(value)
    except (OverflowError, TypeError, ValueError):
        found = -1.0
    if not 0 < found < LARGE:
        raise CheckpointError(f"{source}: {name} is {shown(value)}; expected a positive number below {LARGE}")
    return found


def whole(config: Mapping[str, Any], name: str, source: str) -> int | None:
    """Read a whole number from 1 to below a million, None if missing, null or -1; else raises CheckpointError."""
    value = config.get(name)
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < LARGE:
        raise CheckpointError(f"{source}: {name} is {shown(value)}; expected a whole number from 1 to {LARGE - 1}")
    return value


def with_sorted(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Sort a list of numbers in a config, where its order means nothing."""
    value = config.get(name)
    numbers = isinstance(value, list) and all(isinstance(one, int | float) for one in value)
    return dict(config) | ({name: sorted(value)} if numbers and value is not None else {})
