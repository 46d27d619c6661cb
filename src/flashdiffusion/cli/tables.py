"""Records of images as a table, as JSON or as CSV."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashdiffusion.errors import note

if TYPE_CHECKING:
    from flashdiffusion.record import Record
    from flashdiffusion.reports.tables import Table

SHORTEST, LONGEST = 8, 24  # characters of a name in one line of the table, so that figures have room


def print_records(
    title: str, records: "Sequence[Record]", as_json: bool, about: Mapping[str, Any] | None = None
) -> None:
    """A table of what is known of the images, or as JSON; `about` the run names its model and networks."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from flashdiffusion.jobs.records import summarise
    from flashdiffusion.metrics import METRICS, headings

    if as_json:
        named = {"model": about["model"]} if about and "model" in about else {}
        found = {"records": [record.to_json() for record in records], "mean": summarise(records)}
        print(json.dumps(named | found, indent=2))
        return
    known = {"measurement_psnr": "PSNR before", "severity": "σ̂²"} | headings(about or {})
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    columns, rows = _table(records)
    for column in columns:
        heading = known.get(column, column.replace("_", " "))
        if column == "id":
            longest = min(LONGEST, max(len(heading), *(len(record.id) for record in records)))
            table.add_column(heading, overflow="fold", min_width=min(SHORTEST, longest), max_width=longest)
        else:
            table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)  # whole figures
    for row in rows:
        table.add_row(*(escape(shown(row.get(column))) for column in columns))
    _print_whole(table)
    # What needs no true image was not asked for, so that it is not missed.
    missing = [one for record in records for one in (record.missing or {}).items() if METRICS[one[0]].fit is None]
    for reason, count in Counter(reason for _, reason in missing).items():
        note(reason if len(records) == 1 else f"{count} of {len(records)} images: {reason}")


def print_table(table: "Table") -> None:
    """Print a table of reports, its caption above it."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as Printed

    printed = Printed(title=escape(table.caption), title_justify="left", box=box.SIMPLE_HEAD)
    for n, heading in enumerate(table.headings):
        printed.add_column(escape(heading), justify="right" if n else "left", no_wrap=True)
    for row in table.rows:
        printed.add_row(*map(escape, row))
    _print_whole(printed)


def _print_whole(table: Any) -> None:
    """Print a table of rich; in a narrow terminal it would leave out the last columns."""
    from rich.console import Console

    console = Console()
    needed = table.__rich_measure__(console, console.options.update(width=1000))
    console.width = max(console.width, needed.maximum if all(one.no_wrap for one in table.columns) else needed.minimum)
    console.print(table)


def write_csv(path: Path, records: "Sequence[Record]") -> None:
    """The same table as a CSV file, with the file of each image."""
    columns, rows = _table(records)
    write_rows(path, [*columns, "file"], rows)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write these columns of rows as a CSV file, atomically."""
    from flashdiffusion.data import atomic_path

    with atomic_path(path) as temporary, temporary.open("w", newline="", errors="surrogateescape") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _table(records: "Sequence[Record]") -> tuple[list[str], list[dict[str, Any]]]:
    """Columns with figures, and rows of records."""
    from flashdiffusion.record import NO_FIGURES

    rows = [record.to_json() for record in records]
    return list({key: None for row in rows for key in row if key not in NO_FIGURES or key == "id"}), rows


def figures(mean: Mapping[str, Any]) -> str:
    """Means in one line, those that are known."""
    known = {key: value for key, value in mean.items() if isinstance(value, (int, float))}
    return ", ".join(f"{key} {shown(value)}" for key, value in known.items())


def shown(value: Any) -> str:
    """A number in four digits, "-" for what is not known."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
