"""A search over a method's settings on one task, by optuna; resumable after a kill at any moment."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from flashdiffusion.errors import InputError
from flashdiffusion.experiments.aim import Aim
from flashdiffusion.experiments.space import Plan
from flashdiffusion.experiments.study import NAME, open_study
from flashdiffusion.jobs.journal import differences
from flashdiffusion.jobs.measuring import Evaluated
from flashdiffusion.jobs.records import summarise
from flashdiffusion.methods import Settings
from flashdiffusion.metrics import all_metrics
from flashdiffusion.record import Record, plain
from flashdiffusion.seeds import image_generator

JUDGED = 4  # images after which a trial is first judged, the fewest by which it can be; then after each doubling
COMPLETE, PRUNED, OVER, FAILED = "complete", "pruned", "over budget", "failed"
_FAILED = "failed"
Row = dict[str, Any]
# Settings, and places of images in the data -> what came out.
Measure = Callable[[Settings, Sequence[int]], Iterable[Evaluated]]


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, and what they reached.

    mean: over the images that were measured. state: "complete"; "pruned": worse than the best, and ended early; "over
    budget", and ended early if that was certain; "failed": an image has no finite figure. objective: over these images;
    of a pruned trial over all, estimated by its distance to the best on these; None if it failed.
    """

    settings: Settings
    mean: Mapping[str, Any]
    state: str
    objective: float | None

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "settings": dict(self.settings), "mean": dict(self.mean)}


@dataclass(frozen=True)
class Search:
    """A study and what it is about; its journal holds every trial, image by image."""

    study: optuna.Study
    plan: Plan
    aim: Aim
    seed: int = 0
    prune: bool = True

    @classmethod
    def open(
        cls, journal: Path, about: Mapping[str, Any], plan: Plan, aim: Aim, seed: int = 0, prune: bool = True
    ) -> "Search":
        """Begin a search, or continue the one that the journal holds, with the plan that it began with.

        Args:
            about: what the trials depend on, as JSON can hold it.

        Raises:
            InputError: the journal holds another search, or none.
        """
        study = open_study(journal, aim.higher, prune)
        begun = study.user_attrs.get(NAME)
        if begun is None:
            study.set_user_attr(NAME, {"about": about, "plan": plan.to_json()})
        elif different := differences(begun["about"], about):
            raise InputError(
                f"{journal} holds a search with another {different}; give the same options, or choose another --out"
            )
        else:
            plan = Plan.from_json(plan.base, begun["plan"])
        return cls(study, plan, aim, seed, prune)

    @property
    def trials(self) -> list[Trial]:
        """Those that are done."""
        return [self._trial(one) for one in self._all if one.state.is_finished()]

    @property
    def corrected(self) -> list[str]:
        """Ids of the images that a trial restored with their physics corrected, see `Restored`."""
        rows = (row for one in self._all for name, row in one.user_attrs.items() if name != PRUNED)
        return [*dict.fromkeys(row["id"] for row in rows if row.get("physics_corrected"))]

    @property
    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def run(self, trials: int, images: Sequence[int], measure: Measure) -> Iterator[Trial]:
        """Make trials until there are `trials` of them; each is given when it is done.

        What a trial tries depends on the seed, its number and the trials before it alone, so that a search that was
        continued tries the same. An image that was measured with the same settings is not measured again.

        Raises:
            InputError: no image can be read, or the method cannot serve them.
        """
        for number in range(sum(one.state.is_finished() for one in self._all), trials):
            trial = self._ask(number)
            tried = self.plan.rounded(self.plan.choose(trial))
            known: dict[str, Row] = {}
            for one in self._all:
                known |= one.user_attrs if self.plan.rounded(one.params) == tried else {}
            value = self._measured(trial, known, images, partial(measure, self.plan.settings(tried)))
            self.study.tell(trial, value, TrialState.PRUNED if value is None else TrialState.COMPLETE)
            yield self._trial(self._all[number])

    def best(self) -> Trial:
        """The best trial within the budget.

        Raises:
            InputError: none is within it, or none has a finite figure.
        """
        with suppress(ValueError):  # there is none
            return self._trial(self.study.best_trial)
        over = [trial for trial in self.trials if trial.state == OVER]
        if not over:
            raise InputError(
                f"no trial has a finite {self.aim.text}; expected one that did not diverge: try smaller steps"
            )
        cheapest = min(over, key=lambda trial: max(self.aim.excess([trial.mean], 1).values()))
        budget, spent = (
            ", ".join(f"{name} {figures[name]:.4g}" for name in self.aim.budget)
            for figures in (self.aim.budget, cheapest.mean)
        )
        values = " ".join(f"{name}={cheapest.settings[name]}" for name in self.plan.space)
        raise InputError(f"no trial is within the budget of {budget}; the cheapest takes {spent}: {values}")

    def _ask(self, number: int) -> optuna.Trial:
        """The trial that a kill cut short, else a new one."""
        seed = image_generator(self.seed, str(number), "trial").initial_seed() % 2**32
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        if begun := [one for one in self._all if one.state == TrialState.RUNNING]:
            return optuna.Trial(self.study, begun[0]._trial_id)  # optuna has no other way to go on with one
        if number == len(self._all) and number < len(self.plan.first):
            self.study.enqueue_trial(dict(self.plan.first[number]))
        return self.study.ask()

    def _measured(
        self,
        trial: optuna.Trial,
        known: Mapping[str, Row],
        images: Sequence[int],
        measure: Callable[[Sequence[int]], Iterable[Evaluated]],
    ) -> float | None:
        """The objective over the images, None if the trial ends before; all that is known is in the journal."""
        rows: dict[int, Row] = {}
        for chunk in self._chunks(images):
            new = {index: known[str(index)] for index in chunk if str(index) in known}
            for index, row in new.items():
                trial.set_user_attr(str(index), row)
            if missing := [index for index in chunk if index not in new]:
                for one in measure(missing):
                    if (found := _row(one)) is not None:
                        new[one.index] = found
                        trial.set_user_attr(str(one.index), found)
            rows |= new
            verdict = self._verdict(trial, new, [*rows.values()], len(images), chunk[-1] == images[-1])
            if verdict == PRUNED:
                trial.set_user_attr(PRUNED, True)
                return self._estimate(rows)
            if verdict is not None:
                return None
        if not rows:
            raise InputError("none of the images can be read; give others by --data")
        return self.aim.mean(rows.values())

    def _estimate(self, rows: Mapping[int, Row]) -> float:
        """The objective over all images of what was worse than the best on some: by as much worse on the others."""
        best = self.study.best_trial
        ours, theirs = self.aim.mean(rows.values()), self.aim.mean(best.user_attrs[str(index)] for index in rows)
        assert best.value is not None and ours is not None and theirs is not None
        worse = min(ours - theirs, 0.0) if self.aim.higher else max(ours - theirs, 0.0)
        return best.value + worse

    def _chunks(self, images: Sequence[int]) -> Iterator[Sequence[int]]:
        """Images after which a trial is judged; all together if it never is."""
        start, judged = 0, self.prune or self.aim.budget
        while start < len(images):
            end = max(JUDGED, 2 * start) if judged else len(images)
            yield images[start:end]
            start = end

    def _verdict(
        self, trial: optuna.Trial, new: Mapping[int, Row], rows: list[Row], images: int, last: bool
    ) -> str | None:
        """Why a trial is to end here, None if it goes on; tells optuna of its new images, and last of its cost."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a run that was killed may have told it of some
            for index, row in sorted(new.items()):
                if (value := self.aim.value(row)) is None:
                    trial.set_constraint("finite", 1.0)  # so that the sampler keeps away
                    return FAILED
                trial.report(value, index)
            told = self._all[trial.number].intermediate_values
            too_dear = any(excess > 0 for excess in self.aim.excess(rows, images).values())  # whatever is to come
            if rows and (last or too_dear):
                for name, excess in self.aim.excess(rows, len(rows)).items():
                    trial.set_constraint(name, excess)
            if last:
                return None
            if too_dear:
                return OVER
            gone_on = len(told) > len(rows)  # before a kill: it was judged here by these images alone
            return PRUNED if self.prune and not gone_on and trial.should_prune() else None

    def _trial(self, one: FrozenTrial) -> Trial:
        rows = [row for name, row in one.user_attrs.items() if name != PRUNED]
        records = [Record.from_json(row) for row in rows if _FAILED not in row]
        mean = {name: value for name, value in summarise(records).items() if isinstance(value, (int, float))}
        settings, objective = self.plan.settings(one.params), self.aim.mean(rows)
        if objective is None:
            return Trial(settings, mean | dict.fromkeys(all_metrics()), FAILED, None)
        if any(excess > 0 for excess in one.constraints.values()):
            return Trial(settings, mean, OVER, plain(objective))
        return Trial(settings, mean, PRUNED if PRUNED in one.user_attrs else COMPLETE, plain(one.value))


def _row(one: Evaluated) -> Row | None:
    """What the journal holds of an image; None if it cannot be read, so that every trial alike is without it."""
    if one.record is not None:
        return replace(one.record, degradation=None).to_json()
    return None if one.clean is None else {_FAILED: one.failed}
