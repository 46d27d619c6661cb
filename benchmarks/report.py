"""The figures of a results folder as Markdown: `python benchmarks/report.py benchmarks/results/faces-128`."""

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = ("psnr", "ssim", "lpips", "severity", "nfe", "gflop", "seconds")


def load(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def table(folder: Path, names: list[str]) -> list[str]:
    lines = ["| method | pictures | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name in names:
        result = load(folder, name)
        mean = result["mean"]
        cells = [f"{mean[c]:.4g}" if c in mean else "-" for c in COLUMNS]
        lines.append(f"| {result['method']} | {mean['pictures']} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    folder = Path(sys.argv[1])
    print("\n".join(table(folder, ["bound", "ae"])), "\n")
    print("\n".join(table(folder, ["ae-16", "flash-16", "flash-16-bfloat16", "latent-dps-16"])), "\n")
    print("severity:", load(folder, "ae")["mean"]["severity_quality"])
    if (folder / "ae-paper-head.json").exists():
        print("severity, paper's head:", load(folder, "ae-paper-head")["mean"]["severity_quality"])
    for path in sorted(folder.glob("ordering*.json")):
        result = json.loads(path.read_text())
        print(f"{path.stem}: {result['ordering_accuracy']}")
        print("  levels:", ", ".join(f"{row['std']:.2f}: {row['mean_severity']:.4f}" for row in result["levels"]))


if __name__ == "__main__":
    main()
