"""One HTML page of any set of runs: tables, comparisons, plots, pictures, how each run was made."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from flashdiffusion import __version__
from flashdiffusion.data.files import ensure_file, write_bytes
from flashdiffusion.errors import InputError
from flashdiffusion.metrics import all_metrics
from flashdiffusion.reports.cells import Cell
from flashdiffusion.reports.pictures import LARGEST, Album
from flashdiffusion.reports.plots import colour, plots
from flashdiffusion.reports.runs import by_task, flat
from flashdiffusion.reports.statistics import TRIAL

HEADINGS = {"nfe": "NFE", "gflop": "GFLOP", "seconds": "seconds"}


@dataclass(frozen=True)
class Page:
    """What a page holds. left_out: pictures that cannot be read, with the reason."""

    runs: int
    tasks: int
    images: int
    size: int
    left_out: dict[Path, str]


def write_page(cells: Sequence[Cell], out: str | Path, images: int = 200) -> Page:
    """Write cells as a page that needs no other file and no network; the same cells give the same page.

    Args:
        cells: see `read_cells`.
        images: how many are shown with their pictures, of all tasks together, see `Album`.

    Raises:
        InputError: no cells, fewer than 0 images, or an output that is a folder, cannot be written or is no .html.
    """
    out = Path(out)
    if out.suffix.lower() != ".html":
        raise InputError(f"out is {out}; expected a name that ends in .html")
    if images < 0:
        raise InputError(f"images is {images}; expected 0 or more")
    if not cells:
        raise InputError("no cells to show; expected at least one")
    ensure_file(out)
    tasks = by_task(cells)
    album = Album(tasks, images)
    text = (
        _environment()
        .get_template("report.html")
        .render(
            tasks=tasks,
            plots=[
                [(title, Markup(svg)) for title, svg in plots(task, f"task-{i}")] for i, task in enumerate(tasks, 1)
            ],
            compared=[task.compared() for task in tasks],
            album=album,
            data=album.data(tasks),
        )
    )
    content = text.encode(errors="backslashreplace")  # names of files may hold what no text has
    write_bytes(out, content)
    return Page(
        sum(len(task.runs) for task in tasks), len(tasks), sum(map(len, album.rows)), len(content), album.left_out
    )


def _environment() -> Environment:
    """Templates in which all that comes from files is escaped."""
    folder = files("flashdiffusion") / "assets" / "report"
    own = {name: (folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.css", "report.js")}
    made = Environment(
        loader=DictLoader(own), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"number": _number, "flat": flat, "command": _command, "p": _p}
    made.globals |= {
        "css": Markup(own["report.css"]),
        "js": Markup(own["report.js"]),
        "headings": HEADINGS | {name: metric.heading for name, metric in all_metrics().items()},
        "higher": {name for name, metric in all_metrics().items() if metric.higher},
        "colour": colour,
        "trial": TRIAL,
        "largest": LARGEST,
        "version": __version__,
    }
    return made


def _number(value: float, digits: str) -> str:
    """A number as it is printed: no zero has a sign that rounding left it."""
    return format(value, digits.replace(".", "z.", 1)).replace("-", "−")


def _command(command: Any) -> str:
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command)


def _p(value: float) -> str:
    """A probability as it is printed."""
    return f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"
