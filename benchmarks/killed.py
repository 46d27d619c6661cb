"""An evaluation killed at random moments and resumed: are its numbers those of one that went through?

python benchmarks/killed.py --data DATA --lpips LPIPS --images 24 --kills 5 --out OUT.json

Both runs are commands of their own; the second is killed (SIGKILL) and started anew with --resume until it ends.
Everything in the records is compared but seconds, which are another clock's. Numbers differ in their last digits where
images shared their steps with others: a product of matrices is rounded by their size.
"""

import json
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from common import measuring_parser
from flashdiffusion.jobs.records import made_by


def main() -> None:
    parser = measuring_parser(__doc__, images=24, seed=2)
    parser.add_argument("--lpips")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["flash(proximal)", "ae"])
    parser.add_argument("--task", default="gaussian-blur")
    given = parser.parse_args()
    command = [sys.executable, "-m", "flashdiffusion", "evaluate", "--data", given.data, "--limit", str(given.images)]
    command += ["--task", given.task, "--seed", str(given.seed), *(f"--method={name}" for name in given.methods)]
    command += ["--max-in-flight", "4"]  # so that images finish all along
    command += [] if given.lpips is None else ["--lpips", given.lpips]
    command += [] if given.model is None else ["--model", given.model]
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        began = time.monotonic()
        subprocess.run([*command, "--out", whole], check=True, capture_output=True)
        took, moments = time.monotonic() - began, random.Random(given.seed)
        done = []
        for _ in range(given.kills):
            run = subprocess.Popen(
                [*command, "--out", killed, "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            wait = moments.uniform(0.2, 0.6) * took
            try:
                run.wait(timeout=wait)
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.wait()
            done.append(
                {
                    "after_s": round(wait, 1),
                    "ended": run.returncode == 0,
                    "records": len(_records(killed)) + _lines(killed),
                }
            )
            print(done[-1], flush=True)
        subprocess.run([*command, "--out", killed, "--resume"], check=True, capture_output=True)
        first, second = _records(whole), _records(killed)
    lost, twice = first.keys() - second.keys(), second.keys() - first.keys()
    largest = max((_difference(first[key], second[key]) for key in first.keys() & second.keys()), default=math.inf)
    about = {key: str(value) for key, value in vars(given).items()}
    found = {
        "kills": done,
        "records": len(first),
        "lost": len(lost),
        "twice": len(twice),
        "largest_difference": largest,
    }
    given.out.write_text(json.dumps(made_by(torch.device("cpu"), about) | found, indent=1))
    print(f"{len(first)} records; lost: {len(lost)}; twice: {len(twice)}; largest relative difference: {largest:.1e}")


def _difference(one: dict, other: dict) -> float:
    """Largest relative difference of numbers; infinite where anything else differs."""
    if one.keys() != other.keys():
        return math.inf
    pairs = [(a, b) for a, b in ((one[key], other[key]) for key in one) if a != b]
    numbers = all(isinstance(a, float) and isinstance(b, float) for a, b in pairs)
    return max((abs(a - b) / max(abs(a), abs(b)) for a, b in pairs), default=0.0) if numbers else math.inf


def _lines(folder: Path) -> int:
    """Lines of the journals of cells that are not finished."""
    return sum(len(file.read_bytes().splitlines()) - 1 for file in folder.glob("*--*.jsonl"))


def _records(folder: Path) -> dict[tuple[str, str, int], dict]:
    """Records by their cell, image and place among those of that image, but for seconds."""
    found: dict[tuple[str, str, int], dict] = {}
    for file in folder.glob("*--*.json"):
        for row in json.loads(file.read_text())["records"]:
            place = sum(key[:2] == (file.stem, row["id"]) for key in found)
            found[file.stem, row["id"], place] = {name: value for name, value in row.items() if name != "seconds"}
    return found


if __name__ == "__main__":
    main()
