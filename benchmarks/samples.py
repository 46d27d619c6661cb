"""Does the spread of posterior samples tell where a restoration errs?

Of each image several samples are drawn. Correlation over the places of an image (blocks of 4 x 4 pixels), between the
standard deviation of the samples and the error of their mean, then the mean over images.

python benchmarks/samples.py --data TEST --task gaussian-blur --images 32 --samples 8 --out OUT.json
"""

import json
import statistics

import torch
import torch.nn.functional as F
from torch import Tensor

from common import measuring_parser
from flashdiffusion import FlashPipeline
from flashdiffusion.jobs.evaluate import open_data
from flashdiffusion.jobs.records import made_by
from flashdiffusion.physics import get_task
from flashdiffusion.physics.tasks import measure

BLOCK, BATCH = 4, 8


def in_blocks(difference: Tensor) -> Tensor:
    """Root mean square in each block, (B, 1, h, w)."""
    return F.avg_pool2d(difference.square().mean(dim=1, keepdim=True), BLOCK).sqrt()


def correlation(spread: Tensor, error: Tensor) -> float:
    """Pearson's, of two maps (1, h, w)."""
    return float(torch.corrcoef(torch.stack([spread.flatten(), error.flatten()]))[0, 1])


def main() -> None:
    parser = measuring_parser(__doc__, images=32, seed=2)
    parser.add_argument("--task", default="gaussian-blur")
    parser.add_argument("--method", default="flash(proximal)")
    parser.add_argument("--noise-std", type=float, default=0.05)
    parser.add_argument("--samples", type=int, default=8)
    given = parser.parse_args()
    pipe = FlashPipeline.from_pretrained(given.model)
    data, task, found = open_data(pipe, [given.data], given.images), get_task(given.task), []
    for first in range(0, len(data), BATCH):
        rows = range(first, min(first + BATCH, len(data)))
        x, ids = data.batch(rows), data.ids[rows.start : rows.stop]
        measured = measure(x, ids, task, given.noise_std, given.seed)
        settings = {"method": given.method, "num_samples": given.samples, "seed": given.seed, "ids": ids}
        drawn = pipe(measured.y, measured.physics, **settings)
        spread, error = (in_blocks(difference) for difference in (drawn.std, drawn.mean - x))
        found += [correlation(*pair) for pair in zip(spread, error, strict=True)]
    result = made_by(pipe.device, {key: str(value) for key, value in vars(given).items()})
    result |= {"correlation": statistics.mean(found), "stdev": statistics.stdev(found), "of_images": found}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1))
    print(f"{given.task}, {len(found)} images: correlation of spread and error {result['correlation']:.3f}")


if __name__ == "__main__":
    main()
