"""What several commands do: check a method's settings, print and write records."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashdiffusion.cli.options import MethodOptions
from flashdiffusion.errors import InputError, note

if TYPE_CHECKING:
    from flashdiffusion.data import ImageDataset
    from flashdiffusion.jobs.records import Record


def nets_of(weights: Mapping[str, str]) -> dict[str, str | None]:
    """The networks of metrics with weights, for results files.

    Raises:
        InputError: weights that are none.
    """
    from flashdiffusion.metrics import Metrics

    return {"lpips_net": None, **Metrics(weights).nets}


def noted(images: "ImageDataset") -> "ImageDataset":
    """The images; what was passed over is noted."""
    for text in images.notes:
        note(text)
    return images


def start_and_solver(options: MethodOptions, bound: bool = False) -> tuple[str, str]:
    """Start and solver of a method, whose settings were given.

    Args:
        bound: whether it may be the bound, which needs the true image.

    Raises:
        InputError: unknown method, or settings that it does not use.
    """
    from flashdiffusion.jobs.measuring import BOUND
    from flashdiffusion.methods import parse_method

    if options.method != BOUND:
        start, solver = parse_method(options.method, [BOUND] if bound else [])
    elif bound:
        start, solver = "estimate", "prior"
    else:
        raise InputError(
            f"method {BOUND} restores nothing: it is the autoencoder alone on the true image, for `evaluate` only; "
            "choose another, e.g. flash(latent-dps)"
        )
    check_used(options.given, options.method, start, solver)
    return start, solver


def check_used(names: Iterable[str], method: str, start: str, solver: str, given_as: str = "") -> None:
    """Raise InputError if a method uses other settings than those of these names.

    Args:
        given_as: where the names were given, if not as options of their own.
    """
    from flashdiffusion.methods import all_settings, settings_of

    used = settings_of(start, solver)
    if unused := [name for name in names if name not in used]:
        write = (lambda name: name) if given_as else option_of
        known = ", ".join(write(name) for name in all_settings() if name in used)
        wrong = given_as + ", ".join(map(write, unused))
        raise InputError(f"{wrong}: not used by method {method}, which takes {known or 'no settings'}")


def option_of(setting: str) -> str:
    """The option that gives a setting."""
    return f"--{setting.replace('_', '-')}"


def print_records(title: str, records: "Sequence[Record]", as_json: bool) -> None:
    """A table of what is known of the images, or the same as JSON."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from flashdiffusion.jobs.records import summarise
    from flashdiffusion.metrics import all_metrics

    if as_json:
        print(json.dumps({"records": [record.to_json() for record in records], "mean": summarise(records)}, indent=2))
        return
    headings = {"measurement_psnr": "PSNR before", "severity": "σ̂²"}
    headings |= {name: metric.heading for name, metric in all_metrics().items()}
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    columns, rows = _table(records)
    for column in columns:
        heading = headings.get(column, column.replace("_", " "))
        named = column == "id"
        table.add_column(heading, justify="left" if named else "right", overflow="fold", no_wrap=named)
    for row in rows:
        table.add_row(*(escape(shown(row.get(column))) for column in columns))
    Console().print(table)
    for reason in dict.fromkeys(reason for record in records for reason in (record.missing or {}).values()):
        note(reason)


def write_csv(path: Path, records: "Sequence[Record]") -> None:
    """The same table as a CSV file, written atomically, with the file of each image."""
    from flashdiffusion.data import atomic_path

    columns, rows = _table(records)
    with atomic_path(path) as temporary, temporary.open("w", newline="", errors="surrogateescape") as stream:
        writer = csv.DictWriter(stream, [*columns, "file"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _table(records: "Sequence[Record]") -> tuple[list[str], list[dict[str, Any]]]:
    """Columns with figures, and rows of records."""
    from flashdiffusion.jobs.records import NO_FIGURES

    rows = [record.to_json() for record in records]
    return list({key: None for row in rows for key in row if key not in NO_FIGURES or key == "id"}), rows


def shown(value: Any) -> str:
    """A number in four digits, "-" for what is not known."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
