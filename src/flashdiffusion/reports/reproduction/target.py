"""What a table or figure of the paper is made with, and what it comes to."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flashdiffusion.data.files import atomic_path, ensure_directory, write_bytes, write_json
from flashdiffusion.metrics import METRICS
from flashdiffusion.reports.cells import Cell, figures
from flashdiffusion.reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = {
    "gaussian-blur": "varying blur",
    "gaussian-blur-fixed": "fixed blur",
    "nonlinear-blur": "nonlinear blur",
    "random-inpainting": "inpainting",
}
# Of a label or method, by task: figures by name.
Means = Mapping[str, Mapping[str, Mapping[str, Any]]]


class Study(Protocol):
    """Measures what a target asks for; what was measured before is not measured again."""

    @property
    def quick(self) -> bool:
        """Whether all is to be over in minutes: few images, coarse grids, few levels."""
        ...

    def evaluate(
        self, methods: Sequence[str], tasks: Sequence[str], noise_std: float = 0.05, told: str | None = None
    ) -> list[Cell]:
        """Measure methods on tasks; cells by task, then method, in the order given, of the same images.

        Args:
            told: kind of degradation that the severity encoder is told, whatever it is.

        Raises:
            InputError: a method that can be measured has no image that could be.
        """
        ...

    def order(self, noise_std: float = 0.05, told: str | None = None) -> Mapping[str, Any]:
        """Measure severities over levels of Gaussian blur: what `flashdiffusion ordering` writes."""
        ...

    def plain(self, solver: str) -> str:
        """The method that is a solver from pure noise."""
        ...

    def own(self, method: str) -> str:
        """A method with its own settings; in a quick run on a coarse grid."""
        ...

    def fixed(self, start_step: int) -> str:
        """CCDF-L: Latent-DPS from the same time for every image, from the regressor's estimate if there is one."""
        ...


@dataclass(frozen=True)
class Produced:
    """Tables and figures by the names of their files, figures behind them, and what stands below all."""

    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: "Mapping[str, Figure]" = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    caption: str = ""

    def write(self, folder: Path, about: str) -> list[Path]:
        """Write each table as Markdown, LaTeX and CSV, each figure as PNG and SVG, data.json and caption.md.

        Args:
            about: how it was measured, added to the caption.
        """
        ensure_directory(folder)
        written = []
        for name, table in self.tables.items():
            for suffix, text in ((".md", table.markdown()), (".tex", table.latex()), (".csv", table.csv())):
                write_bytes(folder / f"{name}{suffix}", text.encode())
                written.append(folder / f"{name}{suffix}")
        for name, figure in self.figures.items():
            for suffix in (".png", ".svg"):
                with atomic_path(folder / f"{name}{suffix}") as temporary:
                    figure.savefig(
                        temporary, format=suffix[1:], dpi=150, metadata={"Date": None} if suffix == ".svg" else {}
                    )
                written.append(folder / f"{name}{suffix}")
        write_json(folder / "data.json", self.data)
        write_bytes(folder / "caption.md", f"{self.caption} {about}\n".encode())
        return [*written, folder / "data.json", folder / "caption.md"]


@dataclass(frozen=True)
class Target:
    """A table or figure of the paper: its title, and the function that makes it."""

    name: str
    title: str
    make: Callable[[Study], Produced]


TARGETS: dict[str, Target] = {}


def target(name: str, title: str) -> Callable[[Callable[[Study], Produced]], Callable[[Study], Produced]]:
    """Register a function as what makes the table or figure of this name."""

    def register(make: Callable[[Study], Produced]) -> Callable[[Study], Produced]:
        TARGETS[name] = Target(name, title, make)
        return make

    return register


def paper(table: str) -> dict[str, Any]:
    """Figures of one of the paper's tables."""
    found: dict[str, Any] = json.loads((files("flashdiffusion") / "assets/paper/tables.json").read_text())[table]
    return found


def means_of(cells: Sequence[Cell]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Means of cells by method and task; none of a cell without images."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for cell in cells:
        found.setdefault(cell.method, {})[cell.task] = cell.mean
    return found


def wide(means: Means, names: Sequence[str], caption: str = "") -> Table:
    """A row per method, a column per task and figure; "-" where there is none.

    Args:
        names: figures, such as psnr and nfe.
    """
    tasks = list(dict.fromkeys(task for row in means.values() for task in row))
    shown = {name: METRICS[name].heading if name in METRICS else name.upper() for name in names}
    digits = figures() | {"fid": ".2f"}
    rows = []
    for label, row in means.items():
        values = [row.get(task, {}).get(name) for task in tasks for name in names]
        texts = [
            "-" if v is None else f"{v:{digits[n]}}" for v, n in zip(values, list(names) * len(tasks), strict=True)
        ]
        rows.append([label, *texts])
    headings = [f"{TASKS.get(task, task)}: {shown[name]}" for task in tasks for name in names]
    return Table(["", *headings], rows, caption)
