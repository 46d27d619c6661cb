"""What the page and the process that restores tell each other: a click, and how far it is. Without torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flashdiffusion.app.choice import Choice
from flashdiffusion.app.limits import Limits
from flashdiffusion.app.run import Tell
from flashdiffusion.record import Record


@dataclass(frozen=True)
class Click:
    """What is to be done.

    folder: of this click alone, for its files. picture: its file, as it came. drawn: layers of what was drawn over it,
    as image files or their content.
    """

    choice: Choice
    folder: Path
    picture: Path
    limits: Limits
    drawn: tuple[str | bytes, ...] = ()


# Does a click, and tells of it: `Begun`, a `Step` after each, of each method `Counting`, then `Done`.
Restore = Callable[[Click, Tell], None]


@dataclass(frozen=True)
class Begun:
    """What is known before the first step.

    measured, map: PNG files. record: severity and start. quality: of the measurement, by metric. tiles: rows and
    columns of them, None where there are none. full: times of the full schedule, N. notes: for the user.
    """

    choice: Choice
    measured: bytes
    map: bytes | None
    record: Record
    quality: Mapping[str, float]
    tiles: tuple[int, int] | None
    full: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """What the first sample would be if it ended now, as a PNG file. total: steps that it makes, if they are known."""

    method: str
    number: int
    total: int | None
    image: bytes


@dataclass(frozen=True)
class Counting:
    """The steps of a method are done."""

    method: str


@dataclass(frozen=True)
class Cost:
    """Denoiser evaluations, and arithmetic in GFLOP."""

    nfe: int
    gflop: float


@dataclass(frozen=True)
class Outcome:
    """A method's result; images are PNG files.

    others: further samples. spread: their standard deviation at each place. steps: of tiles, as a picture. noise:
    what the same solver costs from noise, and its name.
    """

    method: str
    image: bytes
    record: Record
    others: list[bytes] = field(default_factory=list)
    spread: bytes | None = None
    deviation: float | None = None
    steps: bytes | None = None
    noise: tuple[str, Cost] | None = None


@dataclass(frozen=True)
class Column:
    """A metric in the table of results: its heading, whether more is better, and decimals worth printing."""

    name: str
    heading: str
    higher: bool
    digits: int


@dataclass(frozen=True)
class Done:
    """All of it. columns: of the metrics that have a figure. commands: as a script. bundle: a ZIP file of all."""

    begun: Begun
    outcomes: list[Outcome]
    columns: tuple[Column, ...]
    commands: str
    bundle: bytes
