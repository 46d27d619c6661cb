"""Renaming a checkpoint's tensors with every key accounted for."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor, nn

from flashdiffusion.errors import CheckpointError
from flashdiffusion.priors.build import build

T = TypeVar("T", bound=nn.Module)

GROUPS = 32  # of every normalisation in the published models, which no weight shows


class KeyMap:
    """Tensors leave a checkpoint one by one under a new name; what is missing or left over is an error by name.

    Args:
        tensors: the checkpoint's.
        source: what the messages call it.
        prefix: of the tensors' names in the file, where these are without it.
    """

    def __init__(self, tensors: dict[str, Tensor], source: str, prefix: str = "") -> None:
        self.left = dict(tensors)
        self.source, self.prefix = source, prefix
        self.moved: dict[str, Tensor] = {}
        self._origin: dict[str, str] = {}

    def take(self, key: str) -> Tensor:
        """Remove a tensor from the checkpoint.

        Raises:
            CheckpointError: it has none of that name.
        """
        if key not in self.left:
            raise self.missing(key)
        return self.left.pop(key)

    def has(self, layer: str) -> bool:
        """Tell whether an optional layer has a weight or bias."""
        return f"{layer}.weight" in self.left or f"{layer}.bias" in self.left

    def missing(self, key: str) -> CheckpointError:
        """Make the error for a missing key."""
        return CheckpointError(
            f"{self.source} has no key {self.prefix}{key}; expected it in this layout: is the file complete?"
        )

    def shape(self, key: str, ndim: int) -> tuple[int, ...]:
        """Return the shape of a tensor from which the model's layout is inferred.

        Raises:
            CheckpointError: no such tensor, or one of another number of dimensions.
        """
        if key not in self.left:
            raise self.missing(key)
        found = tuple(self.left[key].shape)
        if len(found) != ndim or 0 in found:
            raise CheckpointError(f"{self.source}: {self.prefix}{key} has shape {found}; expected {ndim} dimensions")
        return found

    def put(self, name: str, tensor: Tensor, key: str) -> None:
        """Give the model a tensor that came from `key`."""
        self.moved[name] = tensor
        self._origin[name] = key

    def layer(self, old: str, new: str, linear: bool = False) -> None:
        """Move the weight and bias of a layer; a 1x1 convolution becomes the matrix of a linear layer if asked."""
        for part in ("weight", "bias"):
            tensor = self.take(f"{old}.{part}")
            if linear and part == "weight" and tensor.ndim > 2 and tensor.shape[2:].numel() == 1:
                tensor = tensor.reshape(tensor.shape[:2])
            self.put(f"{new}.{part}", tensor, f"{old}.{part}")

    def layers(self, old: str, new: str, table: dict[str, str]) -> None:
        """Move several layers of a block: {name in the checkpoint: name in the model}."""
        for theirs, ours in table.items():
            self.layer(f"{old}.{theirs}", f"{new}.{ours}")

    def rename(self, old: str, new: str) -> None:
        """Give a layer that was moved to `old` another name in the model."""
        for part in ("weight", "bias"):
            self.put(f"{new}.{part}", self.moved.pop(f"{old}.{part}"), self._origin.pop(f"{old}.{part}"))

    def drop(self, prefixes: Iterable[str] = (), keys: Iterable[str] = ()) -> None:
        """Leave out what this layout is known to hold beside the model."""
        names, starts = set(keys), tuple(prefixes)
        self.left = {k: v for k, v in self.left.items() if k not in names and not k.startswith(starts)}

    def finish(self) -> None:
        """Raise CheckpointError if a key was neither moved nor dropped."""
        if self.left:
            keys = sorted(self.left)
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CheckpointError(
                f"{self.source} has a key {self.prefix}{keys[0]}{more} too many for this layout; is it another model?"
            )

    def build(self, make: Callable[[], T]) -> T:
        """Build the network that `make` gives, with the moved tensors; see `priors.build`."""
        names = {name: self.prefix + key for name, key in self._origin.items()}
        return build(make, self.moved, self.source, names)


def indices(tensors: Iterable[str], prefix: str) -> int:
    """Count the numbered blocks `prefix`0, `prefix`1, ..., up to the first missing one."""
    numbers = {key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)}
    return next(n for n in range(len(numbers) + 1) if str(n) not in numbers)


def check_widths(keys: KeyMap, widths: Iterable[int]) -> None:
    """Raise CheckpointError if the channels of a level cannot be normalised in groups as published models do."""
    if odd := [width for width in widths if width % GROUPS]:
        raise CheckpointError(f"{keys.source}: a level of {odd[0]} channels; expected a multiple of {GROUPS}")
