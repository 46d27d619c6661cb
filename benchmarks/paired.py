"""Two evaluations of the same images side by side: means, mean differences with bootstrap 95 % intervals, and wins.

python benchmarks/paired.py BEFORE.json AFTER.json
"""

import argparse
import json
import random
from pathlib import Path

from common import interval

QUALITY = {"psnr": 1, "ssim": 1, "lpips": -1}  # the sign of a gain


def records(path: Path) -> dict[str, dict[str, float]]:
    return {row["id"]: row for row in json.loads(path.read_text())["records"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    given = parser.parse_args()
    before, after = records(given.before), records(given.after)
    if before.keys() != after.keys():
        raise SystemExit(f"{given.before} and {given.after} are not of the same images")
    draw = random.Random(0)
    print(f"{len(before)} images")
    for name in (*QUALITY, "nfe", "gflop", "seconds"):
        if not all(name in row for row in (*before.values(), *after.values())):
            continue
        old, new = (sum(row[name] for row in rows.values()) / len(rows) for rows in (before, after))
        line = f"{name}: {old:.4g} -> {new:.4g}"
        if name in QUALITY:
            gains = [after[one][name] - before[one][name] for one in before]
            low, high = interval(gains, draw)
            wins = sum(QUALITY[name] * gain > 0 for gain in gains)
            line += f"; {new - old:+.4f} [{low:+.4f}, {high:+.4f}], better on {wins}"
        print(line)


if __name__ == "__main__":
    main()
