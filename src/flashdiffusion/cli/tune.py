"""`flashdiffusion tune`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashdiffusion.cli.common import check_used, given_settings, load_pipeline, method_of, option_of, shown
from flashdiffusion.cli.inputs import note
from flashdiffusion.cli.options import Capacity, Delta, Device, Model, NoiseStd, Precision, Regressor, Seed, Steps

if TYPE_CHECKING:
    from flashdiffusion.experiments.tune import Trial
    from flashdiffusion.methods import Settings


def command(
    data: Annotated[list[Path], typer.Option(help="Folder of images or .tar shard; repeat for more.")],
    out: Annotated[Path, typer.Option(help="Results file (JSON); an unfinished one is continued.")],
    task: Annotated[str, typer.Option(help="Task, e.g. gaussian-blur.")] = "gaussian-blur",
    method: Annotated[str, typer.Option(help='Method, e.g. "flash(psld)".')] = "flash(latent-dps)",
    grid: Annotated[
        str | None, typer.Option(help='Values to try, e.g. "eta=1,2,4 correction=0,0.2"; default: by method.')
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of images.")] = 16,
    noise_std: NoiseStd = 0.05,
    lpips: Annotated[Path | None, typer.Option(help="LPIPS weights: the objective; without, PSNR is.")] = None,
    steps: Steps = None,
    delta: Delta = None,
    max_in_flight: Capacity = None,
    model: Model = None,
    device: Device = None,
    precision: Precision = "float32",
    regressor: Regressor = None,
    seed: Seed = 1,
    save: Annotated[bool, typer.Option("--save", help="Write the best into the model's presets.json.")] = False,
) -> None:
    """Search a method's hyperparameters on a task: a trial per combination, the best by LPIPS (or PSNR) last."""
    given = given_settings(locals())
    from flashdiffusion.data import ensure_file, write_json
    from flashdiffusion.errors import InputError
    from flashdiffusion.experiments.tune import best, combinations, default_grid, means, parse_grid, search
    from flashdiffusion.jobs import ModelChoice
    from flashdiffusion.jobs.evaluate import open_data
    from flashdiffusion.jobs.inputs import place
    from flashdiffusion.jobs.lock import locked
    from flashdiffusion.jobs.measuring import evaluate
    from flashdiffusion.jobs.records import environment
    from flashdiffusion.methods import Settings, used_settings
    from flashdiffusion.metrics import Metrics
    from flashdiffusion.physics import get_task
    from flashdiffusion.presets import Preset, preset_for

    chosen = get_task(task)
    start, solver = method_of(method)
    check_used(given, method, start, solver)
    folder = _folder(model) if save else None
    presets = ModelChoice(model).presets
    values = default_grid(method) if grid is None else parse_grid(grid)
    check_used(values, method, start, solver, given_as="--grid ")
    base = Settings(**used_settings(start, solver, preset_for(presets, task, start, solver, steps) | given))
    if not values:
        raise InputError(f"nothing to search for {method}; expected values to try, e.g. --grid eta=1,2,4")
    metrics = Metrics({"lpips": lpips} if lpips else {})
    objective = "lpips" if lpips else "psnr"
    about: dict[str, Any] = {
        "model": place(model) or "embedded",
        "task": task,
        "method": method,
        "noise_std": noise_std,
        "seed": seed,
        "images": limit,
        "data": [place(path) for path in data],
        "objective": objective,
        "regressor": place(regressor),
        "lpips_net": None,
        "precision": precision,
    } | metrics.nets
    ensure_file(out)
    with locked(out):
        done = _read(out, about)
        pipeline = load_pipeline(model, device, precision, regressor)
        images = open_data(pipeline, data, limit)
        for text in images.notes:
            note(text)
        count = len(combinations(values, base))
        for settings in combinations(values, base):  # one that cannot be is refused before the first trial is paid for
            pipeline.method(solver, start, settings)

        def measure(settings: Settings) -> dict[str, Any]:
            parts = evaluate(
                pipeline,
                images,
                chosen,
                method,
                noise_std,
                seed,
                settings,
                metrics,
                max_in_flight=max_in_flight,
                progress=True,
            )
            return means(parts)

        trials = {trial.settings: trial for trial in done}  # kept even if this grid does not ask for them
        asked: list[Trial] = []
        result: dict[str, Any] = {
            "command": ["flashdiffusion", *sys.argv[1:]],
            "environment": environment(pipeline.prior.device),
            **about,
        }
        for trial in search(values, base, measure, done):
            trials[trial.settings] = trial
            asked.append(trial)
            write_json(out, result | {"trials": [one.to_json() for one in trials.values()]})
            varied = ", ".join(f"{name} {getattr(trial.settings, name)}" for name in values)
            print(f"{len(asked)}/{count}: {method} on {task}: {varied}: {_figures(trial)}", flush=True)
        winner = best(asked, objective)
        write_json(out, result | {"trials": [one.to_json() for one in trials.values()], "best": winner.to_json()})
        if folder is not None:
            figures = {name: winner.mean.get(name) for name in ("psnr", "lpips", "nfe")}
            found = {name: value for name, value in winner.settings.items() if name != "steps"}
            presets.with_preset((task, method, steps), Preset(found, **figures)).write(folder)
        options = _options(winner.settings, start, solver)
        print(f"best by {objective}: {options} ({_figures(winner)}); written to {out}")


def _folder(model: str | None) -> Path:
    """The folder of the model.

    Raises:
        InputError: it is embedded, or on a hub.
    """
    from flashdiffusion.errors import InputError

    if model is None or not Path(model).is_dir():
        raise InputError(f"--save writes into a model's folder; --model is {model or 'not given'}, expected a folder")
    return Path(model)


def _figures(trial: "Trial") -> str:
    """What the trial reached, of what is known."""
    from flashdiffusion.metrics import all_metrics

    figures = {key: trial.mean.get(key) for key in (*all_metrics(), "nfe")}
    return ", ".join(f"{key} {shown(figure)}" for key, figure in figures.items() if figure is not None)


def _options(settings: "Settings", start: str, solver: str) -> str:
    """The settings that the method uses, as the options that give them to `restore` and `evaluate`."""
    from flashdiffusion.methods import SAVINGS, all_settings, used_settings

    usual = {name: one.default for name, one in all_settings().items()}
    values = used_settings(start, solver, settings)
    names = [name for name in usual if values.get(name) is not None]
    given = [name for name in names if name not in SAVINGS or values[name] != usual[name]]
    return " ".join(
        option_of(name)
        if values[name] is True
        else option_of(f"no_{name}")
        if values[name] is False
        else f"{option_of(name)} {str(values[name]).removesuffix('.0')}"
        for name in given
    )


def _read(out: Path, about: dict[str, Any]) -> "list[Trial]":
    """Trials of an earlier run of the same search."""
    from flashdiffusion.errors import InputError
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
