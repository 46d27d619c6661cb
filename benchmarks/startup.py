"""Import and load time, each in fresh processes: `python benchmarks/startup.py --out FILE`."""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from flashdiffusion.data import write_json
from flashdiffusion.jobs.records import environment

CASES = {
    "python": "pass",
    "import torch": "import torch",
    "import flashdiffusion": "import flashdiffusion",
    "import FlashPipeline": "from flashdiffusion import FlashPipeline",
    "load faces-128": "from flashdiffusion import FlashPipeline; FlashPipeline.from_pretrained()",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.runs):  # in turn, so that a drift of the machine's speed hits all alike
        for name, code in CASES.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            times[name].append(time.perf_counter() - started)
    rows = {name: {"median": statistics.median(t), "min": min(t), "max": max(t)} for name, t in times.items()}
    for name, row in rows.items():
        print(f"{name:24s} {row['median']:.2f} s  ({row['min']:.2f} to {row['max']:.2f})")
    write_json(options.out, {"environment": environment(torch.device("cpu")), "runs": options.runs, "seconds": rows})


if __name__ == "__main__":
    main()
