"""`flashdiffusion tune`."""

import hashlib
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from flashdiffusion.cli import options
from flashdiffusion.cli.command import option
from flashdiffusion.cli.delivery import note_corrected
from flashdiffusion.cli.inputs import noted
from flashdiffusion.cli.tables import figures
from flashdiffusion.errors import InputError

if TYPE_CHECKING:
    from flashdiffusion.data import ImageDataset
    from flashdiffusion.experiments import tune
    from flashdiffusion.experiments.aim import Aim
    from flashdiffusion.experiments.tune import Search, Trial
    from flashdiffusion.methods import Settings
    from flashdiffusion.presets import Preset

SEARCH = "The search"


@dataclass(frozen=True)
class SearchOptions:
    """What is tried, and what is best."""

    trials: Annotated[
        int | None, option("How many settings are tried; default: 30, of a --grid alone all.", panel=SEARCH)
    ] = None
    space: Annotated[
        str | None,
        option(
            'Ranges to search, e.g. "trust=2:12 correction=1:10:log"; default: by method, around its present settings.',
            panel=SEARCH,
        ),
    ] = None
    grid: Annotated[
        str | None,
        option(
            'Values to try, e.g. "guidance=1,2,4 correction=0,0.2"; without --space: all combinations.', panel=SEARCH
        ),
    ] = None
    objective: Annotated[
        str | None,
        option(
            "What is best: a metric (lpips: the lowest, psnr: the highest), or a sum that is minimised, such as "
            '"lpips=1 psnr=-0.01": metrics of which more is better have negative weights. Default: lpips, without '
            "--lpips psnr.",
            panel=SEARCH,
        ),
    ] = None
    max_nfe: Annotated[float | None, option("Budget: mean NFE per image that the best may take.", panel=SEARCH)] = None
    max_gflop: Annotated[float | None, option("Budget: mean GFLOP per image that the best may take.", panel=SEARCH)] = (
        None
    )
    prune: Annotated[
        bool, option("End a trial as soon as its images are clearly worse than those of the best.", panel=SEARCH)
    ] = True
    plots: Annotated[
        Path | None, option("Folder for pictures of the search (PNG); default: beside --out.", panel=SEARCH)
    ] = None
    resume: options.Resume = False
    save: Annotated[bool, option("Write the best into the model's presets.json.", "--save")] = False

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise InputError(f"trials is {self.trials}; expected at least 1")

    def about(self) -> dict[str, Any]:
        """What the trials depend on."""
        return {"grid": self.grid, "space": self.space, "budget": self.budget, "prune": self.prune}

    @property
    def budget(self) -> dict[str, float | None]:
        """Limits of the mean cost."""
        return {"nfe": self.max_nfe, "gflop": self.max_gflop}

    def journal(self, out: Path) -> Path:
        """The journal beside the results; raises InputError for an earlier search that is not to be continued."""
        journal = out.with_suffix(".jsonl")
        if journal == out:
            raise InputError(f"{out} ends in .jsonl, as the journal beside it will; expected e.g. tune.json")
        for path in (out, journal):
            if path.exists() and not self.resume:
                raise InputError(f"{path} is of an earlier search; --resume continues it, else choose another --out")
        if out.exists() and not journal.exists():
            raise InputError(f"{out} has no journal {journal.name} beside it to continue; choose another --out")
        return journal


def command(
    images: options.TaskOptions,
    out: options.OutFile,
    method: options.MethodOptions,
    model: options.ModelOptions,
    quality: options.QualityOptions,
    search: SearchOptions,
    limit: Annotated[int, option("Number of images.")] = 16,
    max_in_flight: options.MaxInFlight = None,
    seed: options.Seed = 1,
) -> None:
    """Search a method's settings on a task for the best by LPIPS (without: PSNR), on the same images throughout."""
    from flashdiffusion.data import ensure_directory, ensure_file
    from flashdiffusion.experiments.aim import Aim
    from flashdiffusion.experiments.space import TRIALS, Plan
    from flashdiffusion.experiments.tune import Search
    from flashdiffusion.jobs.evaluate import open_data
    from flashdiffusion.jobs.lock import locked
    from flashdiffusion.jobs.measuring import Measure, evaluate
    from flashdiffusion.jobs.records import made_by
    from flashdiffusion.methods import Settings, used_settings
    from flashdiffusion.metrics import Metrics
    from flashdiffusion.physics import get_task
    from flashdiffusion.presets import preset_for

    task, parts, choice = get_task(images.task), method.parts(), model.choice(method.regressor)
    folder = model.folder_to_save() if search.save else None
    present = preset_for(choice.presets, images.task, *parts, method.given.get("steps")) | method.given
    base = Settings(**used_settings(*parts, present))
    plan = Plan.of(*parts, base, search.grid, search.space, seed)
    metrics = Metrics(quality.weights)
    aim = Aim.of(search.objective or ("lpips" if quality.lpips else "psnr"), metrics.compare, search.budget)
    about = model.about(method.regressor) | images.about() | quality.about() | search.about()
    fixed = {name: value for name, value in base.items() if name not in plan.space}
    about |= {"method": method.name, "seed": seed, "images": limit, "objective": aim.text, "settings": fixed}
    more: dict[str, Any] = {"noise_std": images.noise_std, "seed": seed, "max_in_flight": max_in_flight}
    Measure(task, method.name, **more)  # refuses what cannot be, before there is a journal
    journal = search.journal(ensure_file(out))
    stem = ensure_directory(search.plots or out.parent) / out.stem
    with locked(out):
        pipeline = choice.open()
        data = noted(open_data(pipeline, images.data, limit, split=images.split))
        for settings in plan.extremes():  # one that cannot be is refused before the first trial is paid for
            pipeline.method(parts[1], parts[0], settings)
        about["content"] = _content(data)
        found = Search.open(journal, about, plan, aim, seed, search.prune)
        run = partial(evaluate, pipeline, data, task, method.name, metrics=metrics, progress=True, **more)
        wanted = [trials for trials in (search.trials, len(plan.first) if plan.is_grid else None) if trials]
        trials = min(wanted, default=TRIALS)
        _run(found, trials, len(data), lambda settings, rows: run(settings=settings, rows=rows), method, images.task)
        note_corrected(found.corrected, len(data), journal)
        _report(found, made_by(pipeline.prior.device, about), out, stem)
        winner = found.best()
        if folder is not None:
            key = (images.task, method.name, method.given.get("steps"))
            choice.presets.with_preset(key, _preset(winner)).write(folder)
    print(f"best by {aim.text}: {_options(winner.settings, *parts)} ({_figures(winner, aim)}); written to {out}")


def _content(data: "ImageDataset") -> str:
    """Hash of the images, of those that can be read."""
    total = hashlib.blake2b(digest_size=16)
    for index in range(len(data)):
        with suppress(InputError):
            total.update(data.digest(index).encode())
    return total.hexdigest()


def _run(
    search: "Search", trials: int, images: int, measure: "tune.Measure", method: options.MethodOptions, task: str
) -> None:
    """Make the trials, with a line for each."""
    done = len(search.trials)
    try:
        for trial in search.run(trials, range(images), measure):
            done += 1
            values = ", ".join(f"{name} {trial.settings[name]}" for name in search.plan.space)
            ended = "" if trial.state == "complete" else f" ({trial.state} after {trial.mean['images']} images)"
            line = f"{done}/{trials}: {method.name} on {task}: {values}"
            print(f"{line}: {_figures(trial, search.aim)}{ended}", flush=True)
    except KeyboardInterrupt:
        print(f"\nflashdiffusion: interrupted: {done} of {trials} trials are done; --resume continues", file=sys.stderr)
        raise


def _report(search: "Search", made_by: dict[str, Any], out: Path, stem: Path) -> None:
    """Write what was tried, and draw it; there may be no best."""
    from flashdiffusion.data import write_json
    from flashdiffusion.experiments.tune_plots import plot_search

    best = None
    with suppress(InputError):
        best = search.best()
    result = made_by | {"trials": [trial.to_json() for trial in search.trials]}
    write_json(out, result if best is None else result | {"best": best.to_json()})
    plot_search(search.trials, search.plan, search.aim, best, stem)


def _preset(winner: "Trial") -> "Preset":
    """The best settings as a preset."""
    from flashdiffusion.presets import Preset

    reached = {name: winner.mean.get(name) for name in ("psnr", "lpips", "nfe")}
    found = {name: value for name, value in winner.settings.items() if name != "steps"}
    return Preset(found, **reached)


def _figures(trial: "Trial", aim: "Aim") -> str:
    """What the trial reached, of what is known."""
    from flashdiffusion.metrics import all_metrics

    costs = {key: trial.mean.get(key) for key in (*all_metrics(), *dict.fromkeys(("nfe", *aim.budget)))}
    return figures(costs if aim.text in costs else {"objective": trial.objective, **costs})


def _options(settings: "Settings", start: str, solver: str) -> str:
    """The settings that the method uses, as the options that give them to `restore` and `evaluate`."""
    from flashdiffusion.methods import SAVINGS, all_settings, used_settings

    usual = {name: one.default for name, one in all_settings().items()}
    values = {name: one for name, one in used_settings(start, solver, settings).items() if one is not None}
    given = {name: one for name, one in values.items() if name not in SAVINGS or one != usual[name]}
    words = {name: str(one).lower() if isinstance(one, bool) else str(one) for name, one in given.items()}
    return " ".join(f"--set {name}={word.removesuffix('.0')}" for name, word in words.items())
