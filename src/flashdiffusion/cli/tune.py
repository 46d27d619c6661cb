"""`flashdiffusion tune`."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from flashdiffusion.cli import options
from flashdiffusion.cli.command import option
from flashdiffusion.cli.inputs import noted
from flashdiffusion.cli.tables import figures
from flashdiffusion.errors import InputError

if TYPE_CHECKING:
    from flashdiffusion.experiments.tune import Trial
    from flashdiffusion.methods import Settings
    from flashdiffusion.presets import Preset, Presets


def command(
    images: options.TaskOptions,
    out: options.OutFile,
    method: options.MethodOptions,
    model: options.ModelOptions,
    quality: options.QualityOptions,
    grid: Annotated[
        str | None, option('Values to try, e.g. "guidance=1,2,4 correction=0,0.2"; default: by method.')
    ] = None,
    limit: Annotated[int, option("Number of images.")] = 16,
    max_in_flight: options.MaxInFlight = None,
    seed: options.Seed = 1,
    save: Annotated[bool, option("Write the best into the model's presets.json.", "--save")] = False,
) -> None:
    """Search a method's settings on a task: a trial per combination, the best by LPIPS (without: PSNR) last.

    A search that was interrupted is continued from its results file.
    """
    from flashdiffusion.data import ensure_file, write_json
    from flashdiffusion.experiments.tune import best, means, search
    from flashdiffusion.jobs.evaluate import open_data
    from flashdiffusion.jobs.lock import locked
    from flashdiffusion.jobs.measuring import evaluate
    from flashdiffusion.jobs.records import made_by
    from flashdiffusion.metrics import Metrics
    from flashdiffusion.physics import get_task

    task, parts, choice = get_task(images.task), method.parts(), model.choice(method.regressor)
    folder = model.folder_to_save() if save else None
    wanted, varied = _wanted(grid, method, images.task, choice.presets)
    objective = "lpips" if quality.lpips else "psnr"
    about = model.about(method.regressor) | images.about() | quality.about()
    about |= {"method": method.name, "seed": seed, "images": limit, "objective": objective}
    ensure_file(out)
    with locked(out):
        earlier = _read(out, about)
        pipeline = choice.open()
        data = noted(open_data(pipeline, images.data, limit, split=images.split))
        for settings in wanted:  # one that cannot be is refused before the first trial is paid for
            pipeline.method(parts[1], parts[0], settings)
        more: dict[str, Any] = {"noise_std": images.noise_std, "seed": seed, "max_in_flight": max_in_flight}
        run = partial(evaluate, pipeline, data, task, method.name, metrics=Metrics(quality.weights), **more)
        found = search(wanted, lambda settings: means(run(settings=settings, progress=True)), earlier)
        result = made_by(pipeline.prior.device, about)
        trials = {trial.settings: trial for trial in earlier}  # those that were not asked for are kept too
        for number, trial in enumerate(found, start=1):
            trials[trial.settings] = trial
            result["trials"] = [one.to_json() for one in trials.values()]
            write_json(out, result)
            values = ", ".join(f"{name} {getattr(trial.settings, name)}" for name in varied)
            done = f"{number}/{len(wanted)}: {method.name} on {images.task}: {values}"
            print(f"{done}: {_figures(trial)}", flush=True)
        winner = best([trials[settings] for settings in wanted], objective)
        write_json(out, result | {"best": winner.to_json()})
        if folder is not None:
            key = (images.task, method.name, method.given.get("steps"))
            choice.presets.with_preset(key, _preset(winner)).write(folder)
        print(f"best by {objective}: {_options(winner.settings, *parts)} ({_figures(winner)}); written to {out}")


def _wanted(
    grid: str | None, method: options.MethodOptions, task: str, presets: "Presets"
) -> "tuple[list[Settings], list[str]]":
    """The settings to try, and the names of those that vary."""
    from flashdiffusion.experiments.tune import combinations
    from flashdiffusion.methods import Settings, check_used, parse_settings, tuning_grid, used_settings
    from flashdiffusion.presets import preset_for

    start, solver = method.parts()
    values = tuning_grid(start, solver) if grid is None else parse_settings(grid)
    check_used(values, start, solver, method.name)
    if not values:
        raise InputError(f"nothing to search for {method.name}; expected values to try, e.g. --grid guidance=1,2,4")
    preset = preset_for(presets, task, start, solver, method.given.get("steps"))
    base = Settings(**used_settings(start, solver, preset | method.given))
    return combinations(values, base), [*values]


def _read(out: Path, about: dict[str, Any]) -> "list[Trial]":
    """Trials of an earlier run of the same search, kept even if this one does not ask for them."""
    from flashdiffusion.experiments.tune import Trial
    from flashdiffusion.jobs.inputs import placed
    from flashdiffusion.methods import Settings

    if not out.exists():
        return []
    try:
        earlier = json.loads(out.read_text())
        trials = [Trial(Settings(**one["settings"]), one["mean"]) for one in earlier["trials"]]
        different = [key for key in about if placed(earlier.get(key)) != placed(about[key])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out} is no tuning result ({error}); choose another --out") from error
    if different:
        raise InputError(f"{out} holds a search with another {', '.join(different)}; choose another --out")
    return trials


def _preset(winner: "Trial") -> "Preset":
    """The best settings as a preset."""
    from flashdiffusion.presets import Preset

    reached = {name: winner.mean.get(name) for name in ("psnr", "lpips", "nfe")}
    found = {name: value for name, value in winner.settings.items() if name != "steps"}
    return Preset(found, **reached)


def _figures(trial: "Trial") -> str:
    """What the trial reached, of what is known."""
    from flashdiffusion.metrics import all_metrics

    return figures({key: trial.mean.get(key) for key in (*all_metrics(), "nfe")})


def _options(settings: "Settings", start: str, solver: str) -> str:
    """The settings that the method uses, as the options that give them to `restore` and `evaluate`."""
    from flashdiffusion.methods import SAVINGS, all_settings, used_settings

    usual = {name: one.default for name, one in all_settings().items()}
    values = {name: one for name, one in used_settings(start, solver, settings).items() if one is not None}
    given = {name: one for name, one in values.items() if name not in SAVINGS or one != usual[name]}
    words = {name: str(one).lower() if isinstance(one, bool) else str(one) for name, one in given.items()}
    return " ".join(f"--set {name}={word.removesuffix('.0')}" for name, word in words.items())
