"""A user's own files, which register solvers, start rules, degradations, metrics or data sets."""

import sys
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from flashdiffusion.errors import FlashDiffusionError, InputError, brief

LOADED: dict[str, str] = {}  # files by module, for workers to load as well


def load_plugins(files: Iterable[str | Path]) -> None:
    """Run each Python file, once in a process.

    Raises:
        InputError: a file that is missing, fails, or has the name of another one that is loaded.
    """
    for file in files:
        path = Path(file).resolve()
        name = f"flashdiffusion_plugin_{path.stem}"
        if LOADED.get(name) == str(path):
            continue
        spec = spec_from_file_location(name, path) if path.is_file() else None
        if spec is None or spec.loader is None:
            raise InputError(f"plugin {file}: no such Python file")
        if name in LOADED:
            raise InputError(f"plugin {file} has the name of {LOADED[name]}; rename one of them")
        module = sys.modules[name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except FlashDiffusionError:
            raise
        except Exception as error:  # whatever the user's file raises
            raise InputError(f"plugin {file} failed: {type(error).__name__}: {brief(error)}") from error
        LOADED[name] = str(path)
