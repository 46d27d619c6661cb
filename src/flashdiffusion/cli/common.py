"""What several commands do."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flashdiffusion.cli.inputs import note

if TYPE_CHECKING:
    from flashdiffusion.jobs.records import Record
    from flashdiffusion.pipeline import FlashPipeline


def load_pipeline(
    model: str | None, device: str | None, precision: str = "float32", regressor: str | None = None
) -> "FlashPipeline":
    """The model on the device and in the precision asked for, with the regressor of another model if named.

    Raises:
        InputError: a device that torch does not have here, or an unknown precision.
    """
    from flashdiffusion.jobs import ModelChoice

    return ModelChoice(model, device, precision, regressor).open()


def given_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's options that are settings of a method and were given (are not None)."""
    from flashdiffusion.methods import all_settings

    known = all_settings()
    return {name: value for name, value in options.items() if name in known and value is not None}


def method_of(text: str) -> tuple[str, str]:
    """Start and solver of a method that restores.

    Raises:
        InputError: unknown method, or the bound, which needs the true image.
    """
    from flashdiffusion.errors import InputError
    from flashdiffusion.jobs.measuring import BOUND
    from flashdiffusion.methods import parse_method

    if text == BOUND:
        raise InputError(
            f"method {BOUND} restores nothing: it is the autoencoder alone on the true image, for `evaluate` only; "
            "take another, e.g. flash(latent-dps)"
        )
    return parse_method(text)


def check_used(names: Iterable[str], method: str, start: str, solver: str, given_as: str = "") -> None:
    """Raise InputError if a method uses other settings than those of these names.

    Args:
        given_as: where the names were given, if not as options of their own.
    """
    from flashdiffusion.errors import InputError
    from flashdiffusion.methods import all_settings, settings_of

    used = settings_of(start, solver)
    unused = [name for name in names if name not in used]
    if unused:
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

    from flashdiffusion.jobs.records import NO_FIGURES, summarise
    from flashdiffusion.metrics import all_metrics

    rows = [record.to_json() for record in records]
    if as_json:
        print(json.dumps({"records": rows, "mean": summarise(records) if records else {}}, indent=2))
        return
    columns = list({key: None for row in rows for key in row if key not in NO_FIGURES or key == "id"})
    headings = {"measurement_psnr": "PSNR before", "severity": "σ̂²"}
    headings |= {name: metric.heading for name, metric in all_metrics().items()}
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        heading = headings.get(column, column.replace("_", " "))
        named = column == "id"
        table.add_column(heading, justify="left" if named else "right", overflow="fold", no_wrap=named)
    for row in rows:
        table.add_row(*(escape(shown(row.get(column))) for column in columns))
    Console().print(table)
    missing = {reason: None for record in records for reason in (record.missing or {}).values()}
    for reason in missing:
        note(reason)


def shown(value: Any) -> str:
    """A number in four digits, "-" for what is not known."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
