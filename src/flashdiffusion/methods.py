"""Methods by name: where to start x which solver; `flash(psld)` and `psld` differ in the start only."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashdiffusion.errors import NAMED, InputError, UnsuitedError, check_name, unknown_name
from flashdiffusion.priors import DistilledDecoder, IdentityAutoencoder, LatentPrior, TinyDecoder
from flashdiffusion.regression import Regressor
from flashdiffusion.schedule import LOWEST
from flashdiffusion.severity import SeverityEncoder
from flashdiffusion.solvers import Gradient, Networks, SNRMatch, Solver, StartRule, Transition
from flashdiffusion.solvers.building import build_solver, build_start
from flashdiffusion.solvers.registry import SOLVERS, STARTS, Setting, setting, settings_in

# Settings that save arithmetic; what they cost is in docs/performance.md.
SAVINGS = tuple(one.name for one in settings_in(Gradient))


@dataclass(frozen=True)
class TimeGrid:
    """The times at which a method makes its steps."""

    steps: int | None = setting(
        None,
        "Length of the time grid; default: all steps, 500 for ReSample, for proximal the preset's levels or 18.",
        type=int,
    )


@dataclass(frozen=True)
class Quality:
    """How finely a geometric time grid is spaced, beside what its length says.

    Raises:
        InputError: unknown quality.
    """

    quality: str = setting("balanced", "Levels of proximal: fast (half of its steps), balanced, best (twice as many).")

    def __post_init__(self) -> None:
        check_name("quality", self.quality, QUALITIES)

    def of(self, steps: int) -> int:
        """Give the length of the grid that has `steps` at balanced quality; raises InputError for no such number."""
        if not isinstance(steps, int) or steps < 1:
            raise InputError(f"steps is {steps}; expected at least 1, and a whole number")
        return max(1, round(steps * QUALITIES[self.quality]))


QUALITIES = {"fast": 0.5, "balanced": 1.0, "best": 2.0}
_QUALITY = {one.name: one for one in settings_in(Quality)}
# Settings of every method that makes steps.
_GRID = {one.name: one for cls in (TimeGrid, Transition) for one in settings_in(cls)}
DEFAULT_METHOD = "flash(proximal)"
_ALIASES = {"flash": DEFAULT_METHOD}
SETTINGS_IN = "`flashdiffusion restore --help`"  # where all are listed


def all_settings() -> dict[str, Setting]:
    """Describe every setting of the registered solvers and start rules, and of the time grid, by name."""
    known: dict[str, Setting] = {}
    for entry in (*SOLVERS.values(), *STARTS.values()):
        known = known | entry.settings | known  # the first to declare a setting says what it is
    return dict(sorted((known | _GRID | _QUALITY).items(), key=lambda item: item[0] in SAVINGS))  # the savings last


def setting_called(name: str) -> str:
    """Give a setting's own name for its alias; other names are given back."""
    return next((own for own, one in all_settings().items() if name == one.alias), name)


def parse_settings(text: str) -> dict[str, list[Any]]:
    """Read `guidance=1,2,4 correction=0,0.2`; raises InputError for no setting, one given twice, or a wrong value."""
    kinds = {name: one.type for name, one in all_settings().items()}
    given: dict[str, list[Any]] = {}
    for item in text.split():
        name, _, values = item.partition("=")
        if (name := setting_called(name)) not in kinds:
            raise unknown_name("setting", name, kinds, SETTINGS_IN)
        if name in given:
            raise InputError(f"{item}: {name} is given twice; expected once")
        try:
            read = {"true": True, "false": False}.__getitem__ if kinds[name] is bool else kinds[name]
            given[name] = [read(value) for value in values.split(",")]
        except (KeyError, ValueError) as error:
            kind = "true or false" if kinds[name] is bool else "numbers"
            raise InputError(f"{item}; expected {kind}, separated by commas") from error
    return given


class Settings(Mapping[str, Any]):
    """Hyperparameters of a method: those that were given, by name or alias; `all_settings` says what there is.

    As attributes all settings are there, those not given as their defaults. Two are joined by `|`, as dicts are.
    Values are checked by the solver or start rule that they go to; others that are named leave them alone.

    Raises:
        InputError: a name that no registered solver or start rule uses, or a setting beside its alias.
    """

    def __init__(self, **values: Any) -> None:
        known = all_settings()
        own: dict[str, Any] = {}
        for given, value in values.items():
            if (name := setting_called(given)) not in known:
                raise unknown_name("setting", given, known, SETTINGS_IN)
            if name in own:
                raise InputError(f"{known[name].alias} is {name}, and both are given; expected one")
            own[name] = value
        object.__setattr__(self, "_values", own)

    def __getitem__(self, name: str) -> Any:
        values = self.__dict__["_values"]
        return values[name if name in values else setting_called(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__["_values"])

    def __len__(self) -> int:
        return len(self.__dict__["_values"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked for before there are values, by pickle
            raise AttributeError(name)
        name = setting_called(name)
        if name in self:
            return self[name]
        if name not in (known := all_settings()):
            raise AttributeError(str(unknown_name("setting", name, known, SETTINGS_IN)))
        return known[name].default

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"settings are not changed; take settings | Settings({name}={value!r})")

    def __hash__(self) -> int:
        return hash(frozenset(self.items()))

    def __or__(self, other: Mapping[str, Any]) -> "Settings":
        """Join: those of `other` take the place of those of the same name."""
        return Settings(**{**self, **Settings(**other)})

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.items())})"


def _alone() -> dict[str, tuple[str, str]]:
    return {entry.alone: (start, "prior") for start, entry in STARTS.items() if entry.alone}


def methods() -> tuple[str, ...]:
    """Name all methods: starts without steps, solvers from noise, and every other start before every solver.

    A start that works on latents has no method with a solver that works on pixels.
    """
    pairs = [
        f"{start}({solver})"
        for start, entry in STARTS.items()
        for solver, own in SOLVERS.items()
        if start != "noise" and not entry.alone and (None in (entry.space, own.space) or entry.space == own.space)
    ]
    return *_alone(), *(name for name in SOLVERS if name != "prior"), *pairs


def settings_of(start: str, solver: str) -> dict[str, Setting]:
    """Describe the settings that the result of a start and a solver depends on, by name.

    Raises:
        InputError: unknown start or solver.
    """
    check_name("solver", solver, SOLVERS)
    check_name("start", start, STARTS)
    own = STARTS[start].settings
    known = own if STARTS[start].alone else SOLVERS[solver].settings | own | _GRID
    if SOLVERS[solver].geometric:
        known = {name: one for name, one in (known | _QUALITY).items() if name != "delta"}
    return {name: known[name] for name in all_settings() if name in known}


def used_settings(start: str, solver: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give the value of each of these settings, its default where `settings` has none; see `settings_of`."""
    return {name: settings.get(name, one.default) for name, one in settings_of(start, solver).items()}


def default_solver(start: str | StartRule, given: Collection[str]) -> str:
    """Choose a solver of latents where none is named, by the start and the names of the settings given.

    Proximal after a Flash start, unless a setting of a solver is given that it does not use; else Latent-DPS. Settings
    of other starts do no harm.
    """
    flash = start == "flash" or isinstance(start, SNRMatch)
    others = {name for one in STARTS.values() for name in one.settings}
    proximal = flash and settings_of("flash", "proximal").keys() | others >= {*given}
    return "proximal" if proximal else "latent-dps"


def check_used(
    given: Collection[str], start: str, solver: str, method: str | None = None, written: Callable[[str], str] = str
) -> None:
    """Raise InputError if a start and a solver use other settings than those of these names.

    Args:
        method: what the user calls the two.
        written: how the user writes a setting.
    """
    used = settings_of(start, solver)
    if not (unused := [name for name in given if name not in used]):
        return
    takers = [name for name in methods() if {*unused} <= settings_of(*parse_method(name)).keys()]
    more = ", ..." if len(takers) > NAMED else ""
    hint = f"; used by {', '.join(takers[:NAMED])}{more}" if takers else ""
    known, wrong = (", ".join(map(written, names)) for names in (used, unused))
    method = method or method_name(start, solver)
    raise InputError(f"{wrong}: not used by method {method}, which takes {known or 'no settings'}{hint}")


def tuning_grid(start: str, solver: str) -> dict[str, list[Any]]:
    """List the values that settings suggest to tuning, see `Setting`; by name."""
    return {name: list(one.tune) for name, one in settings_of(start, solver).items() if one.tune}


def make_solver(
    name: str, prior: LatentPrior, settings: Mapping[str, Any], distilled: DistilledDecoder | TinyDecoder | None = None
) -> Solver:
    """Build the solver of that name.

    Raises:
        InputError: unknown name, a setting out of range, a solver of the other space than the prior, or no distilled
            decoder for settings that want it.
    """
    check_name("solver", name, SOLVERS)
    entry = SOLVERS[name]
    pixels = isinstance(prior.autoencoder, IdentityAutoencoder)
    if pixels and entry.space == "latents":
        raise UnsuitedError(f"{name} works on latents and this model on pixels; take dps or ccdf(dps)")
    if entry.space == "pixels" and not pixels:
        raise UnsuitedError(
            f"{name} works on pixels and this model has an autoencoder; take latent-dps, or a pixel model"
        )
    steps = settings.get("steps")
    if entry.geometric:
        levels = (entry.steps or len(prior.schedule)) if steps is None else steps
        steps = Quality(settings.get("quality", "balanced")).of(levels)
        transition = Transition(prior.schedule.geometric(steps, LOWEST * prior.autoencoder.latent_std))
    else:
        if steps is None and entry.steps is not None:
            steps = min(entry.steps, len(prior.schedule))
        transition = Transition(prior.schedule.grid(steps), settings.get("delta", _GRID["delta"].default))
    return build_solver(name, Networks(prior, distilled_decoder=distilled), transition, settings)


def make_start(
    name: str,
    prior: LatentPrior,
    encoder: SeverityEncoder | None,
    settings: Mapping[str, Any],
    regressor: Regressor | None = None,
    distilled: DistilledDecoder | TinyDecoder | None = None,
) -> StartRule:
    """Build the start rule of that name.

    Raises:
        InputError: unknown name, a setting out of range, or no network for a rule that needs one.
    """
    check_name("start", name, STARTS)
    return build_start(name, Networks(prior, encoder, regressor, distilled), settings)


def parse_method(text: str, others: Sequence[str] = ()) -> tuple[str, str]:
    """Split a method into the names of a start and a solver: `flash(psld)` -> ("flash", "psld").

    Raises:
        InputError: unknown method; the error names `others` too.
    """
    name = text.lower().replace(" ", "")
    name = _ALIASES.get(name, name)
    if name not in (known := methods()):
        raise unknown_name("method", text, [*known, *_ALIASES, *others], "the table in docs/methods.md")
    if name in (alone := _alone()):
        return alone[name]
    start, parenthesis, solver = name.rstrip(")").partition("(")
    return (start, solver) if parenthesis else ("noise", name)


def split_method(text: str) -> tuple[str, dict[str, Any]]:
    """Split `psld:steps=200,guidance=4` into the method's name and settings of its own.

    Raises:
        InputError: no setting, one given twice, or a wrong value.
    """
    name, _, own = text.partition(":")
    return name.strip(), {key: value for key, (value,) in parse_settings(own.replace(",", " ")).items()}


def named_method(text: str | None, given: Collection[str]) -> str:
    """Give the name in a method as `split_method` takes it; without one, the default for settings of these names."""
    return split_method(text or "")[0] or method_name("flash", default_solver("flash", given))


def method_name(start: str, solver: str) -> str:
    """Name a method, the inverse of `parse_method`."""
    alone = {pair: name for name, pair in _alone().items()}
    return alone.get((start, solver)) or (solver if start == "noise" else f"{start}({solver})")
