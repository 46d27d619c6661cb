"""The searches behind presets.py: one results file per task and method, resumable, then the lines for presets.py.

    python benchmarks/tune.py --data DATA --lpips LPIPS --out OUT --images 4 --baseline-steps 200 \\
        --baseline-images 2                                                                         # two cores
    python benchmarks/tune.py --data DATA --lpips LPIPS --out OUT --images 32                       # a GPU
    python benchmarks/tune.py --out OUT --report  # lines of presets.py

Flash(Latent-DPS) is searched over its step size and c; the other solvers keep those and search what they add, and
CCDF over step size and N'. A baseline is searched over its step size, and takes Flash's omega. Degradations are of
another seed than the reported figures'. `--share 0/2` and `--share 1/2` are two processes that share the tasks.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from common import parser_of, run
from flashdiffusion.reports.cells import cell_file
from flashdiffusion.reports.reproduction.target import TASKS

FLASH_GRID = "guidance=4,8,16 correction=0,0.5"
BASELINE_GRID = "guidance=1,3"
CCDF_GRID = "guidance=8 start_step=10,30"
OMEGAS = "omega=0.1,0.5"
GAMMAS = "gamma=40,400"
RESAMPLE_GRID = "gamma=400 correction=1 mixing=consistent"  # the paper's mixing leaves it too few corrections


def best(out: Path, task: str, method: str) -> dict[str, Any]:
    return json.loads(cell_file(out, task, method).read_text())["best"]["settings"]


def tune(options: argparse.Namespace, task: str, method: str, grid: str, *extra: str) -> None:
    alone = "(" not in method
    out = cell_file(options.out, task, method)
    if out.exists() and "best" in json.loads(out.read_text()):
        return
    arguments = ["tune", "--data", options.data, "--lpips", options.lpips, "--task", task, "--method", method]
    arguments += ["--grid", grid, "--no-prune", "--resume", "--precision", options.precision]
    arguments += ["--limit", str(options.baseline_images or options.images if alone else options.images)]
    arguments += ["--seed", str(options.seed), "--out", str(out), *extra]
    run(arguments)


def solvers_like_psld(task: str) -> tuple[str, ...]:
    """Solvers with the second weight, omega; PSLD is for linear operators."""
    return ("gml-dps",) if task == "nonlinear-blur" else ("gml-dps", "psld")


def tune_flash(options: argparse.Namespace, task: str) -> None:
    model = ["--model", options.model] if options.model else []
    tune(options, task, "flash(latent-dps)", FLASH_GRID, *model)
    found = best(options.out, task, "flash(latent-dps)")
    for solver in solvers_like_psld(task):
        grid = f"guidance={found['guidance']} correction={found['correction']} {OMEGAS}"
        tune(options, task, f"flash({solver})", grid, *model)
    tune(options, task, "flash(resample)", RESAMPLE_GRID, *model)
    tune(options, task, "ccdf(latent-dps)", CCDF_GRID, *model)


def tune_baselines(options: argparse.Namespace, task: str) -> None:
    model = ["--model", options.model] if options.model else []
    coarse = ["--steps", str(options.baseline_steps)] if options.baseline_steps else []
    tune(options, task, "latent-dps", BASELINE_GRID, *coarse, *model)
    guidance = best(options.out, task, "latent-dps")["guidance"]
    tune(options, task, "resample", GAMMAS, *coarse, *model)
    for solver in solvers_like_psld(task):
        omega = best(options.out, task, f"flash({solver})")["omega"]
        tune(options, task, solver, f"guidance={guidance} omega={omega}", *coarse, *model)
    if options.pixel_model:
        pixels = ["--model", options.pixel_model, "--regressor", options.model or "faces-128"]
        tune(options, task, "dps", BASELINE_GRID, *coarse, *pixels)
        tune(options, task, "ccdf(dps)", CCDF_GRID, *pixels)


def report(out: Path) -> None:
    """Every search's best as a line of presets.py."""
    for path in sorted(out.glob("*--*.json")):
        result = json.loads(path.read_text())
        if "best" not in result:
            continue
        settings, mean = result["best"]["settings"], result["best"]["mean"]
        varied = {key for trial in result["trials"] for key in settings if trial["settings"][key] != settings[key]}
        named = set(part.partition("=")[0] for part in _grid_of(result).split()) | varied
        shown = ", ".join(f"{key}={settings[key]!r}" for key in settings if key in named)
        own_grid = "(" in result["method"] or settings["steps"] is None
        steps = None if own_grid else settings["steps"]
        figures = f"{mean['psnr']:.2f}, {mean['lpips']:.4f}, {mean['nfe']:.1f}"
        print(f'    ("{result["task"]}", "{result["method"]}", {steps}): Preset(Settings({shown}), {figures}),')


def _grid_of(result: dict[str, Any]) -> str:
    command = result["command"]
    return command[command.index("--grid") + 1]


def main() -> None:
    parser = parser_of(__doc__, images=4, seed=1)
    parser.add_argument("--baseline-images", type=int, help="of the methods without Flash; default: --images")
    parser.add_argument("--pixel-model", help="pixel-space model; without one, dps and ccdf(dps) are left out")
    options = parser.parse_args()
    if options.report:
        report(options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    index, _, count = options.share.partition("/")
    for step in (tune_flash, tune_baselines):
        for task in list(TASKS)[int(index) :: int(count)]:
            step(options, task)


if __name__ == "__main__":
    main()
