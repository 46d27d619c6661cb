"""`flashdiffusion calibrate`."""

from pathlib import Path
from typing import Annotated

from flashdiffusion.cli.command import option
from flashdiffusion.cli.inputs import Failures, noted
from flashdiffusion.cli.options import Blind, DataOptions, Limit, ModelOptions, Seed, TaskName
from flashdiffusion.cli.tables import figures
from flashdiffusion.errors import InputError

SHOWN = ("coverage_50", "coverage_90", "calibration_error", "spearman", "median_ratio", "spread", "true_spread")


def command(
    images: DataOptions,
    model: ModelOptions,
    task: TaskName = "gaussian-blur",
    noise_std: Annotated[
        list[float] | None, option("Noise standard deviation; repeat for more levels; default: 0.05.")
    ] = None,
    limit: Limit = None,
    seed: Seed = 0,
    blind: Blind = False,
    out: Annotated[Path | None, option("Write the figures to this file too (JSON).")] = None,
    plot: Annotated[Path | None, option("Draw the reliability of each noise level (PNG).")] = None,
    save: Annotated[
        bool, option("Store the factor in the model's folder, which is used from then on.", "--save")
    ] = False,
) -> int:
    """Is the severity map true? Coverage of its intervals on a task, and the factor for 90 % coverage."""
    from flashdiffusion.data import ensure_file, write_json
    from flashdiffusion.experiments.calibration import measure_calibration, plot_reliability, summarise
    from flashdiffusion.experiments.ordering import check_noise
    from flashdiffusion.jobs.evaluate import open_data
    from flashdiffusion.jobs.records import made_by
    from flashdiffusion.physics import get_task
    from flashdiffusion.progress import tracked
    from flashdiffusion.severity.loading import multiply_variance

    chosen, levels = get_task(task), [*dict.fromkeys(noise_std or [0.05])]
    for std in levels:
        check_noise("noise std", std)
    folder = model.folder_to_save() if save else None
    for path in (out, plot):
        if path is not None:
            ensure_file(path)
    pipeline = model.choice().open()
    data = noted(open_data(pipeline, images.data, limit, 0, images.split))
    rows, failures = [], Failures()
    total = len(data) * len(levels)
    for row in tracked(measure_calibration(pipeline, data, chosen, levels, seed, blind), total, "measuring"):
        if row.failed is None:
            rows.append(row)
        else:
            failures.reasons.append((row.id, row.failed))
    if rows:
        result = summarise(rows, seed)
        factor = result["variance_factor"]
        about = model.about() | images.about() | {"task": task, "seed": seed, "blind": blind}
        if out is not None:
            write_json(out, made_by(pipeline.prior.device, about) | result)
        if plot is not None:
            plot_reliability(result["levels"], plot)
        for level in result["levels"]:
            print(f"{task}, noise {level['noise_std']:g}: {figures({name: level[name] for name in SHOWN})}")
        print("variance factor for 90 % coverage: " + ("none found" if factor is None else f"{factor:.4g}"))
        if folder is not None and factor is None:
            raise InputError(f"no factor gives 90 % coverage over {len(data)} images, so none is saved; give more")
        if folder is not None:
            scale = multiply_variance(folder / "severity_encoder", factor)
            print(f"saved: {folder} now multiplies its variances by {scale:.4g}")
    return failures.finish(len(data))
