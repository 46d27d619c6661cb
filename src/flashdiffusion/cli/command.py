"""How a command reads its options: shared sets of them, nothing given twice, help in parts."""

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand

# What a command line raises for a wrong option; typer may carry its own click, so the class is reached from there.
UsageError: Any = typer.BadParameter.__base__


def option(help: str, *names: str, panel: str | None = None, **more: Any) -> Any:
    """Describe an option, under its parameter's name if no others are given; `panel` is the part of the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


class Command(TyperCommand):
    """A command that refuses an option of one value when it is given twice, and prints its help in parts."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        given = Counter(order)
        for param in given:
            if given[param] > 1 and param.param_type_name == "option" and not getattr(param, "multiple", False):
                raise UsageError(f"{param.opts[0]} is given {given[param]} times; expected once", ctx)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        parts: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            usual = "Arguments" if param.param_type_name == "argument" else "Options"
            if (line := param.get_help_record(ctx)) is not None:
                parts.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(line)
        for title, lines in parts.items():
            if lines:
                with formatter.section(title):
                    formatter.write_dl(lines)


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let each parameter that is a dataclass stand for the options that its fields are."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    sets: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters = []
    for name, parameter in signature.parameters.items():
        if name not in sets:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        types = get_type_hints(sets[name], include_extras=True)
        for one in fields(sets[name]):
            default = inspect.Parameter.empty if one.default is MISSING else one.default
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(one.name, kind, default=default, annotation=types[one.name]))
    keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]

    @wraps(function)
    def call(**values: Any) -> Any:
        for name, kind in sets.items():
            values[name] = kind(**{one.name: values.pop(one.name) for one in fields(kind)})
        return function(**values)

    vars(call)["__signature__"] = signature.replace(parameters=keyword)  # what typer reads
    call.__annotations__ = {one.name: one.annotation for one in keyword}
    del call.__wrapped__  # whose hints would be read in place of these
    return call
