"""A network is tried when it is loaded: not all that a config or weights get wrong fails before it runs."""

from collections.abc import Iterable
from importlib.resources import as_file, files

from torch import Tensor

from flashdiffusion.data import load_image
from flashdiffusion.errors import CheckpointError

SIDE = 64  # pixels, about, of the photograph


def photograph(unit: int = 1) -> Tensor:
    """Load a photograph (1, 3, side, side) in [0, 1], its side a multiple of `unit` pixels."""
    with as_file(files("flashdiffusion") / "assets" / "portrait.png") as path:
        return load_image(path, -(-SIDE // unit) * unit)[None]


def check_output(source: object, name: str, output: Tensor, shape: Iterable[int]) -> None:
    """Raise CheckpointError unless what a network gives has this shape and is finite."""
    if output.shape != (expected := tuple(shape)) or not bool(output.isfinite().all()):
        raise CheckpointError(
            f"{source}: its {name} gives {tuple(output.shape)} of {float(output.min()):.3g} to "
            f"{float(output.max()):.3g} for a photograph; expected {expected}, finite"
        )
