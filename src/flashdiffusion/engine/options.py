"""What a stream is to do."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from flashdiffusion.engine.capacity import Capacity
from flashdiffusion.engine.progress import Progress
from flashdiffusion.errors import InputError
from flashdiffusion.methods import Settings
from flashdiffusion.solvers import Solver, StartRule


@dataclass(frozen=True)
class StreamOptions:
    """What a stream is to do; see `FlashPipeline.stream`.

    solver, start: names, or objects; without a solver, `Model.solver_for` chooses one by each batch's settings.
    tile: largest side in pixels of what is restored in one piece; 0 for no bound, None for the model's own choice.
    live: batches come when they come: those in flight are not kept waiting for more, and are given as soon as they are
    done.
    on_step: called with the number of images that each step moved. progress: is told how far the stream is.
    callback: with a step's number, what its images would be if they ended now, and their ids.

    Raises:
        InputError: max_in_flight < 1, or a tile below 0.
    """

    solver: str | Solver | None
    start: str | StartRule
    seed: int = 0
    settings: Settings | None = None
    max_in_flight: int | None = None
    on_step: Callable[[int], None] = lambda images: None
    callback: Callable[[int, Tensor, list[str]], None] | None = None
    tile: int | None = None
    live: bool = False
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        Capacity(self.max_in_flight)
        check_tile(self.tile)


def check_tile(tile: int | None) -> None:
    """Raise InputError unless it is a side of tiles: whole pixels, 0 for none, or None."""
    if tile is not None and (tile != int(tile) or tile < 0):
        raise InputError(f"tile is {tile}; expected whole pixels, 0 for no tiles, or none for the model's own choice")
