"""Solvers and start rules by name; their settings are read off the fields of their classes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from flashdiffusion.errors import InputError, UnsuitedError
from flashdiffusion.priors import DistilledDecoder, LatentPrior, TinyDecoder
from flashdiffusion.regression import Regressor
from flashdiffusion.severity import SeverityEncoder

Class = TypeVar("Class", bound=type)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Setting:
    """A hyperparameter: what it is by default, and the values that tuning tries.

    tune: numbers are searched from the least of them to the greatest; without any, tuning leaves it alone. alias:
    another name by which it may be given.
    """

    name: str
    type: type
    default: Any
    help: str
    tune: tuple[Any, ...] = ()
    alias: str | None = None


@dataclass(frozen=True)
class Networks:
    """The networks of a model; None for those that it lacks."""

    prior: LatentPrior
    encoder: SeverityEncoder | None = None
    regressor: Regressor | None = None
    distilled_decoder: DistilledDecoder | TinyDecoder | None = None

    def encoder_for(self, start: str) -> SeverityEncoder:
        """Give the severity encoder.

        Raises:
            InputError: the model has none, and the start needs it.
        """
        if self.encoder is None:
            raise UnsuitedError(
                f"start {start!r} needs a severity encoder and this model has none; start from noise, or train one "
                "with `flashdiffusion train severity` (models of pixels have none: take dps or ccdf(dps))"
            )
        return self.encoder

    @property
    def given_regressor(self) -> Regressor:
        """The regressor.

        Raises:
            InputError: the model has none.
        """
        if self.regressor is None:
            raise UnsuitedError("this model has no regressor; train one with `flashdiffusion train regressor`")
        return self.regressor


def setting(
    default: Any, help: str, tune: tuple[Any, ...] = (), type: type | None = None, alias: str | None = None
) -> Any:
    """Declare a field that the user sets, see `Setting`; `type` is that of the default unless it is given."""
    about = {"type": type or default.__class__, "help": help, "tune": tuple(tune), "alias": alias}
    return field(default=default, metadata={"setting": about})


def part(cls: type) -> Any:
    """Declare a field that holds a dataclass with settings of its own."""
    return field(default_factory=cls, kw_only=True, metadata={"part": cls})


def settings_in(cls: Any) -> Iterator[Setting]:
    """List the settings among the fields of a dataclass and of its parts."""
    for one in fields(cls):
        about = one.metadata
        if "part" in about:
            yield from settings_in(about["part"])
        elif "setting" in about:
            yield Setting(one.name, default=one.default, **about["setting"])


@dataclass(frozen=True)
class Registered:
    """A class under a name.

    fixed: values of settings that the name settles. space: "latents" or "pixels" if it works on those alone. alone: of
    a start after which there are no steps, the name of that method. steps: length of a solver's own time grid, None
    for the whole schedule. geometric: whether the noise falls by a constant factor from time to time of that grid.
    start: settings of a Flash start that go with a solver, in place of that start's defaults.
    """

    cls: Any
    fixed: Mapping[str, Any]
    space: str | None = None
    alone: str | None = None
    steps: int | None = None
    geometric: bool = False
    start: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Setting]:
        """What the user sets, by name."""
        return {one.name: one for one in settings_in(self.cls) if one.name not in self.fixed}

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Give the values of all settings of the class: those given, else the defaults."""
        return {one.name: given.get(one.name, one.default) for one in settings_in(self.cls)} | dict(self.fixed)


SOLVERS: dict[str, Registered] = {}
STARTS: dict[str, Registered] = {}


def register_solver(
    name: str,
    *,
    fixed: Mapping[str, Any] = _NOTHING,
    space: str | None = None,
    steps: int | None = None,
    geometric: bool = False,
    start: Mapping[str, Any] = _NOTHING,
) -> Callable[[Class], Class]:
    """Register the class below as a solver, see `Registered`.

    The class is a frozen dataclass with the protocol `Solver`. Its fields are settings, or parts with settings, or
    what it is given by its field's name: `prior`, `transition`, `grid`, `decoder` (the distilled one).

    Raises:
        InputError: the name is taken, or a setting is known with another type.
    """
    return lambda cls: _register(
        SOLVERS, name, Registered(cls, dict(fixed), space, None, steps, geometric, dict(start))
    )


def register_start(
    name: str, *, fixed: Mapping[str, Any] = _NOTHING, space: str | None = None, alone: str | None = None
) -> Callable[[Class], Class]:
    """Register the class below as a start rule, see `Registered`.

    The class is a frozen dataclass with the protocol `StartRule`. Its fields are settings, or what it is given by its
    field's name: `prior`, `encoder` (the severity encoder). What needs other networks has a classmethod
    `build(networks, **settings)`.

    Raises:
        InputError: the name is taken, or a setting is known with another type.
    """
    return lambda cls: _register(STARTS, name, Registered(cls, dict(fixed), space, alone))


def _register(table: dict[str, Registered], name: str, entry: Registered) -> Any:
    cls = entry.cls
    home = (cls.__module__, cls.__qualname__)
    if not is_dataclass(cls):
        raise InputError(f"{cls.__name__} is no dataclass; put @dataclass(frozen=True) below the registration")
    if not name.replace("-", "").isalnum() or name != name.lower():
        raise InputError(f"name {name!r}; expected lower-case letters, digits and dashes")
    if name in table and (table[name].cls.__module__, table[name].cls.__qualname__) != home:
        raise InputError(f"the name {name!r} is taken by {table[name].cls.__name__}; choose another")
    others = [other for other in (*SOLVERS.values(), *STARTS.values()) if other is not table.get(name)]
    for one in entry.settings.values():
        for known in (known for other in others for known in other.settings.values()):
            if one.name == known.alias or one.alias == known.name:
                raise InputError(f"setting {one.name} of {name} is elsewhere {known.name}; choose another name")
            if one.name == known.name and one.type is not known.type:
                raise InputError(
                    f"setting {one.name} of {name} is of type {one.type.__name__} and elsewhere of "
                    f"{known.type.__name__}; choose another name"
                )
    table[name] = entry
    return cls
