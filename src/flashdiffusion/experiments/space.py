"""What a search tries: ranges and values of a method's settings, and those that come first."""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import Trial

from flashdiffusion.errors import InputError, unknown_name
from flashdiffusion.methods import (
    SETTINGS_IN,
    Settings,
    all_settings,
    check_used,
    method_name,
    parse_settings,
    setting_called,
    tuning_grid,
)

TRIALS = 30  # where ranges are searched
_DECADE = 10.0  # a suggested range of this ratio is searched on the logarithmic scale


@dataclass(frozen=True)
class Plan:
    """What a search tries.

    base: every setting of the method. space: those of them that vary, over what. first: values that are tried before
    the sampler chooses, in this order. Of a grid they are all that is tried.
    """

    base: Settings
    space: Mapping[str, BaseDistribution]
    first: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, start: str, solver: str, base: Settings, grid: str | None, ranges: str | None, seed: int) -> Self:
        """Plan what `--grid` and `--space` ask for; without either, the ranges that the method's fields suggest.

        A grid without ranges is tried in full, in an order drawn by the seed. Ranges begin with the settings of `base`.

        Raises:
            InputError: nothing to search, no setting or one that is not used, a wrong value or range, or a setting
                given twice.
        """
        values, spans = parse_settings(grid or ""), parse_ranges(ranges or "")
        if both := values.keys() & spans.keys():
            raise InputError(f"{', '.join(both)}: in --grid and in --space; expected in one")
        choices = {name: CategoricalDistribution([*dict.fromkeys(given)]) for name, given in values.items()}
        space = suggested(start, solver, base) if grid is ranges is None else {**choices, **spans}
        method = method_name(start, solver)
        check_used(space, start, solver, method)
        if not space:
            raise InputError(f"nothing to search for {method}; expected values to try, e.g. --grid guidance=1,2,4")
        plan = cls(base, space, [])
        if plan.is_grid:
            first = [dict(zip(space, one, strict=True)) for one in itertools.product(*map(_ends, space.values()))]
            random.Random(seed).shuffle(first)
        else:
            present = {name: base[name] for name in space}
            first = [present] if all(_holds(over, present[name]) for name, over in space.items()) else []
        return replace(plan, first=first)

    @property
    def is_grid(self) -> bool:
        """Whether nothing but what comes first is tried."""
        return all(isinstance(one, CategoricalDistribution) for one in self.space.values())

    def rounded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What is tried of what was sampled: numbers of four significant digits."""
        return {
            name: float(f"{value:.4g}") if isinstance(self.space[name], FloatDistribution) else value
            for name, value in params.items()
        }

    def settings(self, params: Mapping[str, Any]) -> Settings:
        """Settings of a trial."""
        return self.base | self.rounded(params)

    def choose(self, trial: Trial) -> dict[str, Any]:
        """Let the trial choose, but for what it has chosen already."""
        return {name: _suggest(trial, name, over) for name, over in self.space.items()}

    def extremes(self) -> Iterator[Settings]:
        """Give settings with every value, and both ends of every range; and those that come first."""
        yield from map(self.settings, self.first)
        for name, over in self.space.items():
            for value in _ends(over):
                yield self.base | {name: value}

    def to_json(self) -> dict[str, Any]:
        """Give the space and what comes first."""
        return {"space": {name: distribution_to_json(one) for name, one in self.space.items()}, "first": [*self.first]}

    @classmethod
    def from_json(cls, base: Settings, plan: Mapping[str, Any]) -> Self:
        """Invert `to_json`."""
        return cls(base, {name: json_to_distribution(one) for name, one in plan["space"].items()}, plan["first"])


def parse_ranges(text: str) -> dict[str, BaseDistribution]:
    """Read `trust=2:12 correction=1:10:log`; raises InputError for no setting, one given twice, or no range."""
    known, found = all_settings(), dict[str, BaseDistribution]()
    for item in text.split():
        name, _, span = item.partition("=")
        if (name := setting_called(name)) not in known:
            raise unknown_name("setting", name, known, SETTINGS_IN)
        if name in found:
            raise InputError(f"{item}: {name} is given twice; expected once")
        if (kind := known[name].type) not in (int, float):
            raise InputError(f"{item}: {name} is no number; give its values: --grid {name}=...")
        low, high, *scale = *span.split(":"), ""
        try:
            ends = kind(low), kind(high)
            if not (ends[0] < ends[1] and all(map(math.isfinite, ends)) and scale in ([""], ["log", ""])):
                raise ValueError
            found[name] = _over(kind, *ends, log=scale[0] == "log")
        except ValueError as error:
            wanted = "NAME=LOW:HIGH or NAME=LOW:HIGH:log, with LOW < HIGH, and LOW > 0 for log"
            raise InputError(f"{item}; expected {wanted}") from error
    return found


def suggested(start: str, solver: str, base: Settings) -> dict[str, BaseDistribution]:
    """Give the space that the method's fields suggest: from the least to the greatest of their values and `base`."""
    space: dict[str, BaseDistribution] = {}
    for name, values in tuning_grid(start, solver).items():
        kind = all_settings()[name].type
        if kind not in (int, float):
            space[name] = CategoricalDistribution(values)
            continue
        held = [kind(value) for value in (*values, base[name]) if value is not None]
        low, high = min(held), max(held)
        if low < high:
            space[name] = _over(kind, low, high, log=low > 0 and high / low >= _DECADE)
    return space


def _over(kind: type, low: Any, high: Any, log: bool) -> BaseDistribution:
    return IntDistribution(low, high, log=log) if kind is int else FloatDistribution(low, high, log=log)


def _ends(over: BaseDistribution) -> Sequence[Any]:
    match over:
        case CategoricalDistribution(choices=choices):
            return choices
        case IntDistribution(low=low, high=high) | FloatDistribution(low=low, high=high):
            return low, high
    raise AssertionError(over)


def _holds(over: BaseDistribution, value: Any) -> bool:
    ends = _ends(over)
    if isinstance(over, CategoricalDistribution):
        return value in ends
    return value is not None and ends[0] <= value <= ends[1]


def _suggest(trial: Trial, name: str, over: BaseDistribution) -> Any:
    match over:
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
        case IntDistribution(low=low, high=high, log=log):
            return trial.suggest_int(name, low, high, log=log)
        case FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(name, low, high, log=log)
    raise AssertionError(over)
