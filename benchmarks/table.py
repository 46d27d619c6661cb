"""The table of the paper: every method on every task, one results file per cell, resumable.

    python benchmarks/table.py --data DATA --lpips LPIPS --out OUT --images 64                      # a GPU, in full
    python benchmarks/table.py --data DATA --lpips LPIPS --out OUT --images 8 --baseline-steps 200  # two cores
    python benchmarks/table.py --out OUT --report                                                     # as Markdown

A cell that has its file is left alone, so that a killed run goes on where it was. `--share 0/2` and `--share 1/2` are
two processes that share the cells. The settings are those of presets.py.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from common import TASKS, parser_of, path_of, run
from flashdiffusion.metrics import all_metrics

SOLVERS = ("latent-dps", "psld", "gml-dps", "resample")
OTHERS = ("flash(proximal)", "ae", "swinir", "ccdf(latent-dps)", "dps", "ccdf(dps)")
LINEAR_ONLY = "psld"
# The pixel model runs with the settings published for FFHQ; on fixed blur, which has none, with those of varying blur.
PUBLISHED = ["--preset", "FFHQ"]
PUBLISHED_BLUR = {"dps": ["--guidance", "5"], "ccdf(dps)": ["--guidance", "5", "--start-step", "20"]}
COLUMNS = {name: f".{metric.digits}f" for name, metric in all_metrics().items()}
COLUMNS |= {"nfe": ".1f", "gflop": ".0f", "seconds": ".2f"}


def cells() -> list[tuple[str, str]]:
    """(task, method), the cheap ones first, so that a run cut short has them all."""
    methods = [*(f"flash({solver})" for solver in SOLVERS), *(m for m in OTHERS if m != "dps"), *SOLVERS, "dps"]
    found = [(task, method) for method in methods for task in TASKS]
    return [(t, m) for t, m in found if not (t == "nonlinear-blur" and LINEAR_ONLY in m)]


def measure(options: argparse.Namespace, task: str, method: str) -> None:
    out = path_of(options.out, task, method)
    if out.exists():
        return
    arguments = ["evaluate", "--data", options.data, "--lpips", options.lpips, "--task", task, "--method", method]
    arguments += ["--limit", str(options.images), "--seed", str(options.seed), "--precision", options.precision]
    arguments += ["--noise-std", "0.05", "--max-in-flight", str(options.max_in_flight), "--out", str(out)]
    arguments += ["--grid", str(out.with_suffix(".png"))] if options.grids else []
    if "dps" in method.replace("latent-dps", "").replace("gml-dps", ""):
        arguments += ["--model", options.pixel_model, "--regressor", options.model or "faces-128"]
        arguments += PUBLISHED_BLUR[method] if task == "gaussian-blur-fixed" else PUBLISHED
    elif options.model:
        arguments += ["--model", options.model]
    if method in {*SOLVERS, "dps"} and options.baseline_steps:
        arguments += ["--steps", str(options.baseline_steps)]
    partial = out.with_suffix(".partial")
    arguments[arguments.index(str(out))] = str(partial)  # a results file is written batch by batch
    run(arguments)
    partial.rename(out)


def load(out: Path, task: str, method: str) -> dict[str, Any] | None:
    path = path_of(out, task, method)
    return json.loads(path.read_text()) if path.exists() else None


def row(name: str, result: dict[str, Any]) -> str:
    mean = result["mean"]
    return f"| {name} | " + " | ".join(f"{mean[c]:{f}}" if mean.get(c) is not None else "-" for c, f in COLUMNS.items())


def report(out: Path) -> None:
    """The table, and how many cells Flash wins."""
    won = total = 0
    nfe: list[tuple[float, float]] = []  # of X and of Flash(X)
    for task, title in TASKS.items():
        print(f"\n**{title}**\n\n| method | " + " | ".join(COLUMNS) + " |\n|---" + "|---:" * len(COLUMNS) + "|")
        for method in (*OTHERS, *(name for solver in SOLVERS for name in (solver, f"flash({solver})"))):
            result = load(out, task, method)
            if result is None:
                continue
            steps = result["settings"]["steps"] if method in {*SOLVERS, "dps"} else None
            print(row(f"{method}, {steps} steps" if steps else method, result) + " |")
        for solver in SOLVERS:
            plain, flash = load(out, task, solver), load(out, task, f"flash({solver})")
            if plain is None or flash is None:
                continue
            total += 1
            a, b = plain["mean"], flash["mean"]
            won += b["psnr"] > a["psnr"] and b["lpips"] < a["lpips"]
            nfe.append((a["nfe"], b["nfe"]))
    if total:
        print(f"\nFlash(X) better than X in PSNR and LPIPS both: {won} of {total} cells")
        plain_nfe, flash_nfe = (sum(column) for column in zip(*nfe, strict=True))
        ratios = [a / b for a, b in nfe]
        print(f"mean NFE of X over that of Flash(X): {plain_nfe / flash_nfe:.1f}; ", end="")
        print(f"single cells {min(ratios):.1f} to {max(ratios):.1f}")


def main() -> None:
    parser = parser_of(__doc__, images=8, seed=0)
    parser.add_argument("--max-in-flight", type=int, default=8)
    parser.add_argument("--pixel-model", default="runs/pixel", help="pixel-space model of dps and ccdf(dps)")
    parser.add_argument("--only", action="append", help="TASK:METHOD; repeat for more; default: all")
    parser.add_argument("--grids", action="store_true", help="write images beside the figures")
    options = parser.parse_args()
    if options.report:
        report(options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    index, _, count = options.share.partition("/")
    for task, method in cells()[int(index) :: int(count)]:
        if options.only is None or f"{task}:{method}" in options.only:
            measure(options, task, method)


if __name__ == "__main__":
    main()
