"""Modules that other libraries import and no command uses: loaded when something of them is used."""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# diffusers imports it for options of schedulers that are not used here: an eighth of a command's start.
UNUSED = ("scipy.stats",)


class _Later(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name == "__file__":  # which `inspect` looks for in every module that there is
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def postpone(*names: str) -> None:
    """Let modules of these names be loaded when they are first used, but those that are loaded or not installed."""
    for name in names:
        if name not in sys.modules and find_spec(name.partition(".")[0]) is not None:
            sys.modules[name] = _Later(name)
            sys.modules[name].__spec__ = ModuleSpec(name, None)
