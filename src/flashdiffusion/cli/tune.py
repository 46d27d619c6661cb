"""`flashdiffusion tune`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashdiffusion.cli.common import check_used, nets_of, noted, shown, start_and_solver
from flashdiffusion.cli.options import Lpips, MaxInFlight, MethodOptions, ModelOptions, OutFile, Seed, TaskOptions
from flashdiffusion.errors import InputError

if TYPE_CHECKING:
    from flashdiffusion.experiments.tune import Trial
    from flashdiffusion.methods import Settings
    from flashdiffusion.presets import Presets


def command(
    images: TaskOptions,
    out: OutFile,
    method: MethodOptions,
    model: ModelOptions,
    grid: Annotated[
        str | None, typer.Option(help='Values to try, e.g. "guidance=1,2,4 correction=0,0.2"; default: by method.')
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of images.")] = 16,
    lpips: Lpips = None,
    max_in_flight: MaxInFlight = None,
    seed: Seed = 1,
    save: Annotated[bool, typer.Option("--save", help="Write the best into the model's presets.json.")] = False,
) -> None:
    """Search a method's settings on a task: a trial per combination, the best by LPIPS (without: PSNR) last.

    A search that was interrupted is continued from its results file.
    """
    from flashdiffusion.data import ensure_file, write_json
    from flashdiffusion.experiments.tune import best, combinations, default_grid, means, search
    from flashdiffusion.jobs.evaluate import open_data
    from flashdiffusion.jobs.lock import locked
    from flashdiffusion.jobs.measuring import evaluate
    from flashdiffusion.jobs.records import environment
    from flashdiffusion.methods import Settings, parse_settings, used_settings
    from flashdiffusion.metrics import Metrics
    from flashdiffusion.physics import get_task
    from flashdiffusion.presets import preset_for

    task = get_task(images.task)
    start, solver = start_and_solver(method)
    folder = _folder(model.model) if save else None
    choice = model.choice(method.regressor)
    values = default_grid(method.method) if grid is None else parse_settings(grid)
    check_used(values, method.method, start, solver, given_as="--grid ")
    if not values:
        raise InputError(f"nothing to search for {method.method}; expected values to try, e.g. --grid guidance=1,2,4")
    preset = preset_for(choice.presets, images.task, start, solver, method.given.get("steps"))
    trials_of = combinations(values, Settings(**used_settings(start, solver, preset | method.given)))
    weights = {"lpips": str(lpips)} if lpips else {}
    metrics = Metrics(weights)
    objective = "lpips" if lpips else "psnr"
    about = model.about(method.regressor) | images.about() | nets_of(weights)
    about |= {"method": method.method, "seed": seed, "images": limit, "objective": objective}
    ensure_file(out)
    with locked(out):
        trials = {trial.settings: trial for trial in _read(out, about)}  # kept even if this grid does not ask for them
        pipeline = choice.open()
        data = noted(open_data(pipeline, images.data, limit))
        for settings in trials_of:  # one that cannot be is refused before the first trial is paid for
            pipeline.method(solver, start, settings)

        def measure(settings: Settings) -> dict[str, Any]:
            return means(
                evaluate(
                    pipeline,
                    data,
                    task,
                    method.method,
                    progress=True,
                    noise_std=images.noise_std,
                    seed=seed,
                    settings=settings,
                    metrics=metrics,
                    max_in_flight=max_in_flight,
                )
            )

        result: dict[str, Any] = {"command": ["flashdiffusion", *sys.argv[1:]]} | about
        result["environment"] = environment(pipeline.prior.device)
        asked = []
        for trial in search(trials_of, measure, list(trials.values())):
            trials[trial.settings] = trial
            asked.append(trial)
            result["trials"] = [one.to_json() for one in trials.values()]
            write_json(out, result)
            varied = ", ".join(f"{name} {getattr(trial.settings, name)}" for name in values)
            done = f"{len(asked)}/{len(trials_of)}: {method.method} on {images.task}: {varied}"
            print(f"{done}: {_figures(trial)}", flush=True)
        winner = best(asked, objective)
        write_json(out, result | {"best": winner.to_json()})
        if folder is not None:
            _keep(folder, choice.presets, (images.task, method.method, method.given.get("steps")), winner)
        options = _options(winner.settings, start, solver)
        print(f"best by {objective}: {options} ({_figures(winner)}); written to {out}")


def _folder(model: str | None) -> Path:
    """The folder of the model.

    Raises:
        InputError: it is embedded, or on a hub.
    """
    if model is None or not Path(model).is_dir():
        raise InputError(f"--save writes into a model's folder; --model is {model or 'not given'}, expected a folder")
    return Path(model)


def _keep(folder: Path, presets: "Presets", key: tuple[str, str, int | None], winner: "Trial") -> None:
    """Write the best settings into the model's folder."""
    from flashdiffusion.presets import Preset

    figures = {name: winner.mean.get(name) for name in ("psnr", "lpips", "nfe")}
    found = {name: value for name, value in winner.settings.items() if name != "steps"}
    presets.with_preset(key, Preset(found, **figures)).write(folder)


def _figures(trial: "Trial") -> str:
    """What the trial reached, of what is known."""
    from flashdiffusion.metrics import all_metrics

    figures = {key: trial.mean.get(key) for key in (*all_metrics(), "nfe")}
    return ", ".join(f"{key} {shown(figure)}" for key, figure in figures.items() if figure is not None)


def _options(settings: "Settings", start: str, solver: str) -> str:
    """The settings that the method uses, as the options that give them to `restore` and `evaluate`."""
    from flashdiffusion.methods import SAVINGS, all_settings, used_settings

    usual = {name: one.default for name, one in all_settings().items()}
    values = {name: one for name, one in used_settings(start, solver, settings).items() if one is not None}
    given = {name: one for name, one in values.items() if name not in SAVINGS or one != usual[name]}
    words = {name: str(one).lower() if isinstance(one, bool) else str(one) for name, one in given.items()}
    return " ".join(f"--set {name}={word.removesuffix('.0')}" for name, word in words.items())


def _read(out: Path, about: dict[str, Any]) -> "list[Trial]":
    """Trials of an earlier run of the same search."""
    from flashdiffusion.experiments.tune import Trial
    from flashdiffusion.methods import Settings

    if not out.exists():
        return []
    try:
        earlier = json.loads(out.read_text())
        different = [key for key in about if earlier[key] != about[key]]
        trials = [Trial(Settings(**one["settings"]), one["mean"]) for one in earlier["trials"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out} is no tuning result ({error}); choose another --out") from error
    if different:
        raise InputError(f"{out} holds a search with another {', '.join(different)}; choose another --out")
    return trials
