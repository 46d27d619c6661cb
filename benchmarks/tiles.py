"""Pictures in tiles: what a start for each tile saves, and whether seams show.

Each picture is restored whole, in tiles with a start each, and in tiles that all start where the severest of them does.
The seam is what lies within two pixels of where neighbours meet. `seam` is the error (RMS, from the true picture) there
over that of the rest, divided by the same ratio of the picture that was restored whole: 1 if tiles leave no trace.

python benchmarks/tiles.py --data DATA --model photos --task blur-1.6 --noise-std 0.00784 --lpips LPIPS --out OUT.json
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import measuring_parser
from flashdiffusion import FlashPipeline
from flashdiffusion.data import ImageDataset, save_grid
from flashdiffusion.engine.tiling import TileMap
from flashdiffusion.jobs.records import made_by
from flashdiffusion.metrics import psnr
from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.physics import get_task
from flashdiffusion.physics.tasks import measure
from flashdiffusion.plugins import load_plugins
from flashdiffusion.reports.statistics import interval
from levels import FixedLevel

BESIDE = 2  # pixels on each side of a seam


def near_seams(size: Sequence[int], tiles: TileMap) -> Tensor:
    """True where a pixel lies near a line at which two tiles meet, (H, W)."""
    near = torch.zeros(*size, dtype=torch.bool)
    for spans, lines in ((tiles.rows, near), (tiles.columns, near.mT)):
        for (_, end), (begin, _) in pairwise(spans):
            meeting = begin + (end - begin) // 2
            lines[meeting - BESIDE : meeting + BESIDE] = True
    return near


def contrast(error: Tensor, near: Tensor) -> float:
    """RMS error near seams over that elsewhere; error: (3, H, W)."""
    square = error.square().mean(dim=0)
    return float((square[near].mean() / square[~near].mean()).sqrt())


def main() -> None:
    parser = measuring_parser(__doc__, images=32, seed=2)
    parser.add_argument("--lpips", required=True, help="LPIPS weights")
    parser.add_argument("--task", default="gaussian-blur")
    parser.add_argument("--noise-std", type=float, default=0.05)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--grids", type=Path, help="folder of sheets: true, measured, whole, tiles, one start (PNG)")
    given = parser.parse_args()
    load_plugins([Path(__file__).with_name("photographs.py")])  # its tasks
    pipe = FlashPipeline.from_pretrained(given.model)
    net, task = LPIPS.load(given.lpips), get_task(given.task)
    data = ImageDataset([given.data], None, given.images)
    records = []
    for row, id in enumerate(data.ids):
        x = data[row][None].float() / 255
        measured = measure(x, [id], task, given.noise_std, given.seed)
        settings = pipe.settings_for(measured.physics, "flash", "proximal")
        solver, rule = pipe.method("proximal", "flash", settings)
        options: dict[str, Any] = {"solver": solver, "seed": given.seed, "ids": [id]}
        whole = pipe(measured.y, measured.physics, start=rule, tile=0, **options)
        tiled = pipe(measured.y, measured.physics, start=rule, tile=given.tile, **options)
        tiles = tiled.tiles[0]
        severest = solver.grid.nearest(int(tiles.start_step.max()))
        alike = pipe(measured.y, measured.physics, start=FixedLevel(rule, severest), tile=given.tile, **options)
        record: dict[str, Any] = {"id": id, "tiles": tiles.plain()}
        for name, one in (("whole", whole), ("tiled", tiled), ("one start", alike)):
            with torch.no_grad():
                lpips = float(net(one.images, x))
            figures = {"psnr": float(psnr(one.images, x)), "lpips": lpips, "nfe": float(one.nfe[0])}
            record[name] = figures | {"gflop": float(one.gflop[0])}
        near = near_seams(x.shape[2:], tiles)
        record["seam"] = contrast((tiled.images - x)[0], near) / contrast((whole.images - x)[0], near)
        records.append(record)
        print(json.dumps({name: value for name, value in record.items() if name != "tiles"}))
        if given.grids:
            sheet = [x, measured.physics.image(measured.y), whole.images, tiled.images, alike.images]
            given.grids.mkdir(parents=True, exist_ok=True)
            save_grid(sheet, given.grids / f"{Path(id).stem}.png")
        _write(given, pipe, records)


def _write(given: Any, pipe: FlashPipeline, records: list[dict[str, Any]]) -> None:
    """Means over the pictures with bootstrap 95 % intervals, and the records."""
    ratios = {
        "seam": [one["seam"] for one in records],
        "gflop: one start / tiled": [one["one start"]["gflop"] / one["tiled"]["gflop"] for one in records],
        "lpips: tiled / one start": [one["tiled"]["lpips"] / one["one start"]["lpips"] for one in records],
    }
    means = {name: [sum(values) / len(values), *interval(values)] for name, values in ratios.items()}
    print(json.dumps(means))
    result = made_by(pipe.device, {key: str(value) for key, value in vars(given).items()})
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result | {"means, low, high": means, "records": records}, indent=1))


if __name__ == "__main__":
    main()
