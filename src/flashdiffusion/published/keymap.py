"""A network built from the tensors of a checkpoint with other names, every key accounted for."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from torch import Tensor, nn

from flashdiffusion.errors import CheckpointError
from flashdiffusion.priors.build import fill, outline

T = TypeVar("T", bound=nn.Module)

GROUPS = 32  # of every normalisation in the published models, which no weight shows


class KeyMap:
    """The tensors of a checkpoint, which a network takes by their names there; what is missing or left is an error.

    Args:
        tensors: the checkpoint's.
        source: what the messages call it.
        prefix: of the tensors' names in the file, where these are without it.
    """

    def __init__(self, tensors: dict[str, Tensor], source: str, prefix: str = "") -> None:
        self.left = dict(tensors)
        self.source, self.prefix = source, prefix

    def missing(self, key: str) -> CheckpointError:
        """Make the error for a missing key."""
        return CheckpointError(
            f"{self.source} has no key {self.prefix}{key}; expected it in this layout: is the file complete?"
        )

    def shape(self, key: str, ndim: int) -> tuple[int, ...]:
        """Return a tensor's shape; raises CheckpointError if it is missing or has other than `ndim` dimensions."""
        if key not in self.left:
            raise self.missing(key)
        found = tuple(self.left[key].shape)
        if len(found) != ndim or 0 in found:
            raise CheckpointError(f"{self.source}: {self.prefix}{key} has shape {found}; expected {ndim} dimensions")
        return found

    def drop(self, prefixes: Iterable[str] = (), keys: Iterable[str] = ()) -> None:
        """Leave out what this layout is known to hold beside the model."""
        names, starts = set(keys), tuple(prefixes)
        self.left = {k: v for k, v in self.left.items() if k not in names and not k.startswith(starts)}

    def finish(self) -> None:
        """Raise CheckpointError if a key was neither taken nor dropped."""
        if self.left:
            keys = sorted(self.left)
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CheckpointError(
                f"{self.source} has a key {self.prefix}{keys[0]}{more} too many for this layout; is it another model?"
            )

    def build(
        self, make: Callable[[], T], key_of: Callable[[str], str], part: Callable[[str, str], Tensor] | None = None
    ) -> T:
        """Build the network that `make` gives from all tensors that are left.

        Args:
            make: constructs the network.
            key_of: a parameter's name in the network -> its key in the checkpoint.
            part: (name, key) -> what of that tensor the parameter is; default: all of it.

        Raises:
            CheckpointError: missing, extra or misshapen tensors.
        """
        model = outline(make, self.left, self.source)
        keys = {name: key_of(name) for name in model.state_dict()}
        if absent := [key for key in keys.values() if key not in self.left]:
            raise self.missing(absent[0])
        tensors = {name: part(name, key) if part else self.left[key] for name, key in keys.items()}
        for name, expected in model.state_dict().items():
            if expected.ndim == 2 < tensors[name].ndim and tensors[name].shape[2:].numel() == 1:
                tensors[name] = tensors[name].flatten(1)  # a 1x1 convolution, which is a linear layer in diffusers
        self.drop(keys=keys.values())
        self.finish()
        return fill(model, tensors, self.source, {name: self.prefix + key for name, key in keys.items()})


def renamed(name: str, table: Mapping[str, str]) -> str:
    """Replace parts of a name, in the order of the table."""
    for ours, theirs in table.items():
        name = name.replace(ours, theirs)
    return name


def indices(tensors: Iterable[str], prefix: str) -> int:
    """Count the numbered blocks `prefix`0, `prefix`1, ..., up to the first missing one."""
    numbers = {key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)}
    return next(n for n in range(len(numbers) + 1) if str(n) not in numbers)


def check_widths(keys: KeyMap, widths: Iterable[int]) -> None:
    """Raise CheckpointError if the channels of a level cannot be normalised in groups as published models do."""
    if odd := [width for width in widths if width % GROUPS]:
        raise CheckpointError(f"{keys.source}: a level of {odd[0]} channels; expected a multiple of {GROUPS}")
