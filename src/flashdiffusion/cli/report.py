"""`flashdiffusion report`."""

from pathlib import Path
from typing import Annotated

import typer

from flashdiffusion.cli.command import option
from flashdiffusion.errors import note


def command(
    places: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders or files that `evaluate` wrote.")],
    out: Annotated[Path, option("The page (.html).")],
    images: Annotated[
        int,
        option("Images shown with their pictures; the hardest, the easiest, the best and the worst gains are first."),
    ] = 200,
) -> None:
    """One HTML page of evaluation runs: tables, comparisons, plots, pictures side by side. It needs no network."""
    from flashdiffusion.reports import read_cells, write_page

    page = write_page(read_cells(places), out, images)
    for reason in page.left_out.values():
        note(f"{reason}; it is left out")
    if not page.images:
        note("no run kept pictures: `evaluate --save-images` does")
    found = f"{page.runs} runs, tasks: {page.tasks}, images with pictures: {page.images}"
    print(f"{found}; {page.size / 1e6:.1f} MB, written to {out}")
