"""Every method on every task with fixed settings, by two versions of the code: are the results the same?

    PYTHONPATH=OLD/src python benchmarks/before_after.py run old --data val.tar
    python benchmarks/before_after.py run new --data val.tar
    python benchmarks/before_after.py compare old new

`run` goes on where it was stopped. It uses the command line alone, by names that versions share.
"""

import argparse
import json
import math
import re
from pathlib import Path

GUIDED = {name: ["--eta", "4", "--steps", "16"] for name in ("latent-dps", "gml-dps", "psld")}
METHODS = {
    **GUIDED,
    **{f"flash({name})": [*own, "--correction", "0.2", "--mixing", "paper"] for name, own in GUIDED.items()},
    "flash(resample)": ["--gamma", "40", "--proximal", "0", "--correction", "0.2", "--mixing", "paper"],
    "ccdf(latent-dps)": ["--eta", "4", "--steps", "16", "--start-step", "250"],
    "inversion(latent-dps)": ["--eta", "4", "--steps", "16"],
    **{name: [] for name in ("ae", "swinir", "bound")},
}
FIGURES = ("severity", "true_severity", "nfe", "gflop", "measurement_psnr", "psnr", "ssim", "lpips")


def run(out: Path, data: str, images: int, lpips: str | None) -> None:
    """Evaluate what is missing in `out`, in this process."""
    import torch

    from flashdiffusion.cli.app import app
    from flashdiffusion.errors import FlashDiffusionError
    from flashdiffusion.physics import TASKS

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        for method, settings in METHODS.items():
            file = out / (re.sub(r"[^a-z0-9]+", "-", f"{task} {method}") + ".json")
            if file.exists():
                continue
            common = ["--data", data, "--limit", str(images), "--seed", "0", *(["--lpips", lpips] if lpips else [])]
            try:
                app(
                    ["evaluate", "--task", task, "--method", method, "--out", str(file), *common, *settings],
                    standalone_mode=False,
                )
            except (FlashDiffusionError, SystemExit) as error:  # psld refuses what is not linear
                print(f"{method} on {task}: {error}")


def differences(old: Path, new: Path, tolerance: float) -> tuple[int, list[str]]:
    """How many results both have, and where figures differ by more than a part of themselves."""
    common = sorted({file.name for file in old.glob("*.json")} & {file.name for file in new.glob("*.json")})
    found = []
    for name in common:
        before, after = ({r["id"]: r for r in json.loads((f / name).read_text())["records"]} for f in (old, new))
        if before.keys() != after.keys():
            found.append(f"{name}: images {sorted(before)} and {sorted(after)}")
        for id in before.keys() & after.keys():
            for key in FIGURES:
                a, b = before[id].get(key), after[id].get(key)
                if (a is None) != (b is None) or (
                    a is not None and not math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance / 100)
                ):
                    found.append(f"{name}: {id}: {key} {a} and {b}")
    return len(common), found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("out", type=Path)
    one.add_argument("--data", required=True)
    one.add_argument("--images", type=int, default=2)
    one.add_argument("--lpips")
    two = commands.add_parser("compare")
    two.add_argument("old", type=Path)
    two.add_argument("new", type=Path)
    two.add_argument("--tolerance", type=float, default=2e-4)
    options = parser.parse_args(arguments)
    if options.command == "run":
        run(options.out, options.data, options.images, options.lpips)
        return
    count, found = differences(options.old, options.new, options.tolerance)
    print(f"{count} results compared, {len(found)} figures differ", *found, sep="\n")


if __name__ == "__main__":
    main()
