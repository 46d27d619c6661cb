"""The figures of a results folder as Markdown: `python benchmarks/report.py benchmarks/results/faces-128`."""

import json
import sys
from pathlib import Path
from typing import Any

from flashdiffusion.metrics import all_metrics

COLUMNS = (*all_metrics(), "severity", "nfe", "gflop", "seconds")


def evaluations(results: dict[str, Any]) -> list[str]:
    """A row per `evaluate` result."""
    lines = ["| file | method | task | images | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 4) + "|"]
    for name, result in results.items():
        mean = result["mean"]
        cells = [f"{mean[c]:.4g}" if mean.get(c) is not None else "-" for c in COLUMNS]
        lines.append(f"| {name} | {result['method']} | {result['task']} | {mean['images']} | {' | '.join(cells)} |")
    return lines


def orderings(results: dict[str, Any]) -> list[str]:
    """A row per `ordering` result: accuracy, and the mean severity at each level."""
    lines = []
    for name, result in results.items():
        ((varied, _), *_) = result["levels"][0].items()
        levels = ", ".join(f"{row[varied]:.3g}: {row['mean_severity']:.4f}" for row in result["levels"])
        lines.append(f"{name}: {result['ordering_accuracy']:.4f} over {len(result['records'])} images")
        lines.append(f"    mean severity by {varied}: {levels}")
    return lines


def main() -> None:
    results = {path.stem: json.loads(path.read_text()) for path in sorted(Path(sys.argv[1]).glob("*.json"))}
    measured = {name: result for name, result in results.items() if "mean" in result}
    if measured:
        print("\n".join(evaluations(measured)), "\n")
    for name, result in measured.items():
        if "severity_quality" in result["mean"]:
            print(f"{name}: {result['mean']['severity_quality']}")
    print("\n".join(orderings({name: result for name, result in results.items() if "ordering_accuracy" in result})))


if __name__ == "__main__":
    main()
