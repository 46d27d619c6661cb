"""One large photograph, restored by the command line in tiles: its peak memory, and seconds a megapixel.

The photograph is a mosaic of photographs, blurred. Memory is the whole process's, looked at twenty times a second.

python benchmarks/large.py --data DATA... --megapixels 12 --out OUT.json
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
from PIL import Image

from flashdiffusion.data import ImageDataset
from flashdiffusion.data.images import to_pil
from flashdiffusion.jobs.records import made_by

SIDES = 4, 3
LOOK = 0.05  # seconds between two looks at a process


def mosaic(data: list[str], megapixels: float) -> Image.Image:
    """Photographs side by side, row by row, in the order of the data and again from its beginning."""
    unit = math.sqrt(megapixels * 1e6 / math.prod(SIDES))
    width, height = (round(side * unit) for side in SIDES)
    sheet, images = Image.new("RGB", (width, height)), ImageDataset(data, None)
    left = top = row = 0
    for number in range(10**6):
        if top >= height:
            break
        image = to_pil(images[number % len(images)].float() / 255)
        sheet.paste(image, (left, top))
        left, row = left + image.width, max(row, image.height)
        if left >= width:
            left, top, row = 0, top + row, 0
    return sheet


def watched(command: list[str]) -> tuple[float, float]:
    """Run a command; its seconds, and the most memory that it held, in MiB."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "flashdiffusion", *command])
    while process.poll() is None:
        try:
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(LOOK)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return time.perf_counter() - began, peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="folders of photographs or .tar shards")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[3, 12])
    parser.add_argument("--std", type=float, default=2.0, help="of the blur, in pixels")
    parser.add_argument("--noise-std", type=float, default=0.02)
    parser.add_argument("--model", default="photos")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--out", type=Path, required=True, help="figures (JSON)")
    given = parser.parse_args()
    about = {name: str(value) for name, value in vars(given).items()}
    result = made_by(torch.device("cpu"), about) | {"rows": []}
    for size in given.megapixels:
        with TemporaryDirectory() as folder:
            sheet = mosaic(given.data, size)
            sheet.save(f"{folder}/mosaic.png")
            damage = ["--physics", f"gaussian-blur:std={given.std}", "--noise-std", str(given.noise_std)]
            watched(["degrade", f"{folder}/mosaic.png", *damage, "--out", f"{folder}/measured"])
            options = ["--model", given.model, "--precision", given.precision, "--reference", folder]
            seconds, peak = watched(
                ["restore", f"{folder}/measured/mosaic.safetensors", *options, "--out", f"{folder}/restored"]
            )
            [record] = json.loads(Path(folder, "restored", "results.json").read_text())["records"]
        row = {"size": sheet.size, "peak_mib": round(peak), "seconds": seconds}
        row["seconds_a_megapixel"] = seconds / (math.prod(sheet.size) / 1e6)
        row |= {name: record[name] for name in ("nfe", "gflop", "measurement_psnr", "psnr")}
        row["tiles"] = math.prod(len(record["tiles"][side]) for side in ("rows", "columns"))
        result["rows"].append(row)
        print(json.dumps(row))
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
