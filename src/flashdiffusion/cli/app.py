"""The commands and what they share: one-line errors, exit codes."""

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from flashdiffusion.cli import (
    calibrate,
    convert,
    degrade,
    demo,
    evaluate,
    mine,
    ordering,
    report,
    reproduce,
    restore,
    serve,
    severity,
    train,
    tune,
    web_app,
)
from flashdiffusion.cli.command import Command, UsageError, option, with_options
from flashdiffusion.errors import FlashDiffusionError, UntunedWarning
from flashdiffusion.plugins import load_plugins

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
experiments = (evaluate, report, reproduce, ordering, calibrate, mine, tune)
for module in (demo, web_app, degrade, restore, severity, *experiments, train, convert, serve):
    name = getattr(module, "NAME", module.__name__.rsplit(".", 1)[-1])
    app.command(name=name, cls=Command)(with_options(module.command))


def _version(wanted: bool) -> None:
    if wanted:
        from flashdiffusion import __version__

        print(f"flashdiffusion {__version__}")
        raise typer.Exit()


@app.callback()
def _top(
    version: Annotated[bool, option("Print it.", "--version", callback=_version, is_eager=True)] = False,
    plugin: Annotated[
        list[Path] | None,
        option(
            "Python file that registers solvers, degradations, metrics or data sets; repeat for more.", metavar="FILE"
        ),
    ] = None,
) -> None:
    """Sample-adaptive image restoration: easy images cost few diffusion steps, hard ones many."""
    load_plugins(plugin or [])


def main() -> None:
    """Run the command line: exit code 0, 1 if some inputs failed, 2 for input that cannot be used."""
    # Read when torch is first imported. GNU OpenMP's threads by default wait for each other in a busy loop for
    # milliseconds, at the end of every operator, and hold the core that the one they wait for may need.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    for stream in (sys.stdout, sys.stderr):  # names of files that the console cannot print
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="flashdiffusion", standalone_mode=False)
    except UsageError as error:
        _fail(error.format_message())
    except FlashDiffusionError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'file'}: {error.strerror or error}; is there space, and permission to write?")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, without importing torch for every command
            raise
        _fail("out of memory; try a smaller --max-in-flight")
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """A warning as a note, or with its place if it is not ours."""
    if issubclass(category, UntunedWarning):
        print(f"flashdiffusion: note: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, *place[:2]), end="", file=sys.stderr)


def _fail(message: str) -> None:
    print(f"flashdiffusion: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
