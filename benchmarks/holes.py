"""Holes, filled: a few steps from the severity encoder's start against a solver from pure noise.

Each image loses a scribble of 10 to 25 % of its pixels, and then a box of a quarter of its side. What a method paints
inside the hole is put into the true image, and LPIPS is that of the whole: nothing differs outside the hole.

python benchmarks/holes.py --data TEST --lpips LPIPS --images 50 --out OUT.json --grid OUT.png
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common import measuring_parser
from flashdiffusion import FlashPipeline
from flashdiffusion.data import save_grid
from flashdiffusion.jobs.evaluate import open_data
from flashdiffusion.jobs.records import made_by
from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.physics import BatchedPhysics, BoxInpainting, RandomInpainting
from flashdiffusion.physics.masks import distance_to_scribble
from flashdiffusion.reports import interval
from flashdiffusion.seeds import image_generator

BATCH, SHOWN = 50, 8
NOISE = 0.05


def scribble(size: tuple[int, int], generator: torch.Generator) -> BatchedPhysics:
    distance = distance_to_scribble(1, size, generator)
    share = 0.1 + 0.15 * torch.rand(1, generator=generator)
    return RandomInpainting((distance > distance.quantile(share)).float(), noise_std=NOISE)


def box(size: tuple[int, int], generator: torch.Generator) -> BatchedPhysics:
    return BoxInpainting.from_side(0.25, size, generator, noise_std=NOISE)


HOLES = {"scribble": scribble, "box": box}


def main() -> None:
    parser = measuring_parser(__doc__, images=50, seed=2)
    parser.add_argument("--lpips", required=True, help="LPIPS weights")
    parser.add_argument("--holes", nargs="+", choices=HOLES, default=[*HOLES])
    parser.add_argument("--methods", nargs="+", default=["flash(proximal)", "gml-dps"])
    parser.add_argument("--grid", type=Path, help="sheet of the first images: true, measured, each method (PNG)")
    given = parser.parse_args()
    pipe = FlashPipeline.from_pretrained(given.model)
    distance, data = LPIPS.load(given.lpips).to(pipe.device), open_data(pipe, [given.data], given.images)
    result = made_by(pipe.device, {key: str(value) for key, value in vars(given).items()}) | {"holes": {}}
    sheets = []
    for hole in given.holes:
        physics, ys = [], []
        x = data.batch(range(len(data)))
        for n, image_id in enumerate(data.ids):
            generator = image_generator(given.seed, f"{image_id}@{hole}")
            physics.append(HOLES[hole]((x.shape[2], x.shape[3]), generator))
            ys.append(physics[n](x[n : n + 1], generator))
        y, joined = torch.cat(ys), type(physics[0]).join(physics)
        lost = joined.measured(torch.ones_like(y)) == 0
        figures, painted = {}, []
        for method in given.methods:
            found = restore(pipe, distance, method, x, y, joined, lost, data.ids, given.seed)
            figures[method], images = found
            painted.append(images[:SHOWN])
            print(hole, method, {key: round(figures[method][key], 4) for key in ("lpips", "nfe", "gflop")}, flush=True)
        result["holes"][hole] = figures | {"paired": paired(figures)}
        sheets += [x[:SHOWN], joined.image(y)[:SHOWN].clamp(0, 1), *painted]
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1))
    if given.grid:
        save_grid(sheets, given.grid)


@torch.no_grad()
def restore(
    pipe: FlashPipeline,
    distance: LPIPS,
    method: str,
    x: Tensor,
    y: Tensor,
    physics: BatchedPhysics,
    lost: Tensor,
    ids: Sequence[str],
    seed: int,
) -> tuple[dict, Tensor]:
    """Figures of a method, and its images with the truth around the holes."""
    rows = [torch.arange(first, min(first + BATCH, len(y))) for first in range(0, len(y), BATCH)]
    made = [pipe(y[r], physics.take(r), method=method, seed=seed, ids=[ids[i] for i in r.tolist()]) for r in rows]
    images = torch.where(lost, torch.cat([one.images.cpu() for one in made]), x)
    lpips = torch.cat([distance(images[r].to(pipe.device), x[r].to(pipe.device)).cpu() for r in rows])
    means = {name: torch.cat([getattr(one, name).float().cpu() for one in made]) for name in ("nfe", "gflop")}
    figures = {"lpips": float(lpips.mean())} | {name: float(value.mean()) for name, value in means.items()}
    return figures | {"lpips_of_images": lpips.tolist()}, images


def paired(figures: dict) -> dict:
    """Mean difference of LPIPS, of the first method to each other one, with its interval."""
    first, *others = figures
    found = {}
    for other in others:
        pairs = zip(figures[first]["lpips_of_images"], figures[other]["lpips_of_images"], strict=True)
        gains = [a - b for a, b in pairs]
        low, high = interval(gains)
        found[f"{first} - {other}"] = {"difference": sum(gains) / len(gains), "interval": [low, high]}
        print(f"{first} - {other}: {sum(gains) / len(gains):+.4f} [{low:+.4f}, {high:+.4f}]", flush=True)
    return found


if __name__ == "__main__":
    main()
