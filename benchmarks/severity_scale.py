"""The scales of the page: percentiles of predicted severities of a data set's images, by task.

Each image is degraded by each task that the page offers for the model, with the noise that stands there at first, and
the severity encoder looks at it once. What is written are numbers alone.

python benchmarks/severity_scale.py --model faces-128 --data VAL --about "aligned faces" --images 200 \
    --out src/flashdiffusion/assets/app/severities-faces-128.json
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch

from common import measuring_parser
from flashdiffusion.app.damages import DAMAGES
from flashdiffusion.data import ImageDataset, in_chunks, write_json
from flashdiffusion.jobs.records import made_by
from flashdiffusion.physics import get_task
from flashdiffusion.physics.tasks import measure
from flashdiffusion.pipeline import Batch, FlashPipeline
from flashdiffusion.record import plain

CROP = 192  # divisible by 4, as the largest factor of super-resolution
RANKS = np.linspace(0, 100, 21)


def batches(data: ImageDataset, given: argparse.Namespace, task: str, noise_std: float) -> Iterator[Batch]:
    """Images degraded by a task; of those of sizes of their own the middle, of up to `CROP` pixels a side."""
    for rows in in_chunks(range(min(given.images, len(data))), 1 if data.size is None else 20):
        x, names = data.batch(rows), [data.ids[row] for row in rows]
        if data.size is None:
            (top, height), (left, width) = ((max(0, side - CROP) // 2, min(side, CROP)) for side in x.shape[2:])
            x = x[..., top : top + height, left : left + width]
        measured = measure(x, names, get_task(task), noise_std, given.seed)
        yield Batch(names, measured.y, measured.physics)


def main() -> None:
    parser = measuring_parser(__doc__, images=200, seed=0)
    parser.add_argument("--about", required=True, help="the data in words, after their number")
    given = parser.parse_args()
    model = FlashPipeline.from_pretrained(given.model)
    data = ImageDataset([given.data], model.sample_size)
    tasks = {one.task: one.noise_std for one in DAMAGES.values() if model.source in one.models}
    found = {}
    for task, noise_std in tasks.items():
        restored = model.begin(batches(data, given, task, noise_std), seed=given.seed)
        values = [one.severity for one in restored if one.severity is not None]
        percentiles = [plain(float(value)) for value in np.percentile(values, RANKS)]
        found[task] = {"images": len(values), "noise_std": noise_std, "percentiles": percentiles}
        print(f"{task}: {len(values)} images, median {percentiles[len(percentiles) // 2]}", flush=True)
    about = {
        "about": given.about,
        "model": model.source,
        "crop": None if data.size else CROP,
        "seed": given.seed,
        "tasks": found,
    }
    write_json(given.out, made_by(torch.device("cpu"), about))


if __name__ == "__main__":
    main()
