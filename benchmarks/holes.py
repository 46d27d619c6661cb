"""Holes, filled: a few steps from the severity encoder's start against a solver from pure noise.

As a plugin it adds the task `holes`: an image loses a scribble of 10 to 25 % of its pixels, or a box of a quarter of
its side. As a script it compares the methods of such a run by what they paint into the hole: that is put into the true
image, and LPIPS is that of the whole, as nothing differs outside the hole.

flashdiffusion --plugin benchmarks/holes.py evaluate --task holes --save-images --data TEST --lpips LPIPS --limit 50 \
    --seed 2 --method "flash(proximal)" --method gml-dps --out RUN
python benchmarks/holes.py RUN --lpips LPIPS --out OUT.json --grid OUT.png
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from flashdiffusion.data import load_image, save_grid
from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.physics import BatchedPhysics, RandomInpainting, get_task
from flashdiffusion.physics.masks import distance_to_scribble
from flashdiffusion.physics.tasks import Mixture, Task, register_task
from flashdiffusion.reports.cells import Cell, read_cells
from flashdiffusion.reports.statistics import compare_cells, figures_of
from flashdiffusion.seeds import image_generator

TASK, SHOWN = "holes", 8
KINDS = {"scribble": "random-inpainting", "box": "box-inpainting"}  # and the physics that lose them


def scribbled(share: Tensor, size: tuple[int, int], generator: torch.Generator, noise_std: float) -> BatchedPhysics:
    """Lose a share of the pixels, those nearest to a scribble; for one image."""
    distance = distance_to_scribble(1, size, generator)
    return RandomInpainting((distance > distance.quantile(float(share))).float(), noise_std)


box = get_task("box-inpainting")
register_task(Task("holes-scribble", "share", 0.1, 0.25, scribbled, (0.1, 0.25), physics=KINDS["scribble"]))
register_task(replace(box, name="holes-box", low=0.25, high=0.25))
register_task(Mixture(TASK, ("holes-scribble", "holes-box")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of `evaluate --task holes --save-images`")
    parser.add_argument("--lpips", required=True, help="LPIPS weights")
    parser.add_argument("--out", type=Path, required=True, help="figures (JSON)")
    parser.add_argument("--grid", type=Path, help="sheet of the first images: true, measured, each method (PNG)")
    given = parser.parse_args()
    distance = LPIPS.load(given.lpips)
    found: dict[str, list[Cell]] = {}  # a method may have measured some images in each run
    for cell in read_cells(given.runs):
        if cell.task == TASK:
            found.setdefault(cell.method, []).append(cell)
    if not found:
        raise SystemExit(f"{', '.join(map(str, given.runs))}: no results of the task {TASK}")
    methods = sorted(found, key=lambda method: not method.startswith("flash"))  # the others are compared with it
    home = {method: {id: cell for cell in found[method] for id in cell.records} for method in methods}
    ids = [id for id in home[methods[0]] if all(id in home[method] for method in methods)]
    painted = {method: {id: paint(home[method][id], id) for id in ids} for method in methods}
    inside = [in_hole(home[method], painted[method], distance) for method in methods]
    first = home[methods[0]]
    result = {
        name: found[methods[0]][0].about.get(name) for name in ("data", "noise_std", "seed", "lpips_net", "environment")
    }
    for kind, physics in KINDS.items():
        own = [id for id in ids if first[id].records[id]["degradation"]["physics"] == physics]
        result[kind] = compared([cell.of(own) for cell in inside])
    result["both"] = compared(inside)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1))
    if given.grid:
        rows = [[shown(first[id], id, kind) for id in ids[:SHOWN]] for kind in ("clean", "measured")]
        rows += [[images[id] for id in ids[:SHOWN]] for images in painted.values()]
        save_grid([torch.stack(row) for row in rows], given.grid)


def shown(cell: Cell, id: str, kind: str) -> Tensor:
    """An image that the run kept, (3, H, W)."""
    file = cell.image(id, kind)
    if file is None:
        raise SystemExit(f"{cell.path.parent} kept no image of {id}; expected a run with --save-images")
    return load_image(file)


def paint(cell: Cell, id: str) -> Tensor:
    """The true image with what the method put into its hole, (3, H, W)."""
    truth, restored = shown(cell, id, "clean"), shown(cell, id, "restored")
    size, generator = (truth.shape[1], truth.shape[2]), image_generator(int(cell.about["seed"]), id)
    physics = get_task(TASK).draw(1, size, generator, cell.about["noise_std"])
    return torch.where(physics.measured(torch.ones(1, *truth.shape))[0] == 0, restored, truth)


@torch.no_grad()
def in_hole(home: Mapping[str, Cell], painted: Mapping[str, Tensor], distance: LPIPS) -> Cell:
    """One cell of these images, with LPIPS of what was painted."""
    rows = {}
    for id, image in painted.items():
        lpips = float(distance(image[None], shown(home[id], id, "clean")[None]))
        rows[id] = {**home[id].records[id], "lpips": lpips}
    return replace(home[next(iter(painted))], records=rows)


def compared(cells: list[Cell]) -> dict:
    """Figures of each method, LPIPS of each image, and the first method against each other one."""
    names = ("lpips", "nfe", "gflop")
    found = {
        cell.method: {name: asdict(one) for name, one in figures_of(cell).items() if name in names}
        | {"lpips_of_images": cell.values("lpips")}
        for cell in cells
    }
    pairs = [asdict(one) for cell in cells[1:] if (one := compare_cells(cells[0], cell, "lpips")) is not None]
    for one in pairs:
        print(
            f"{one['method']} - {one['other']}, {one['images']} images: "
            f"{one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]"
        )
    return {"methods": found, "compared": pairs}


if __name__ == "__main__":
    main()
