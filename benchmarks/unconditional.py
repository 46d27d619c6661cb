"""Samples of a latent prior from noise by deterministic DDIM, and how far their distribution is from that of images.

The distance is Fréchet's over AlexNet features (the last layer, averaged over places), as FID is over Inception's. It
depends on the number of images: compare figures of equal numbers only. The same distance between the data and their own
reconstructions by the autoencoder is the least that a prior can reach, about.

python benchmarks/unconditional.py --data TEST --lpips LPIPS --images 500 --out OUT.json --grid OUT.png
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from common import measuring_parser
from flashdiffusion import FlashPipeline
from flashdiffusion.data import save_grid
from flashdiffusion.jobs.evaluate import open_data
from flashdiffusion.jobs.records import made_by
from flashdiffusion.metrics import LPIPS, frechet
from flashdiffusion.priors import LatentPrior

BATCH, SHOWN, ROW = 50, 16, 8


@torch.no_grad()
def sample(prior: LatentPrior, noise: Tensor, steps: int) -> Tensor:
    """DDIM (Song et al. 2021) with δ = 0 from noise (B, c, h, w), decoded."""
    grid, z = prior.schedule.grid(steps), noise
    for k in range(steps, 0, -1):
        here, below = grid.abar[k].item(), grid.abar[k - 1].item()
        z0 = prior.denoise(z, grid.times[k].expand(len(z)).to(z.device))
        epsilon = (z - here**0.5 * z0) / (1 - here) ** 0.5
        z = below**0.5 * z0 + (1 - below) ** 0.5 * epsilon
    return prior.decode(z).clamp(0, 1)


def main() -> None:
    parser = measuring_parser(__doc__, images=500, seed=0)
    parser.add_argument("--lpips", required=True, help="LPIPS weights of AlexNet")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--grid", type=Path, help="the first 16 samples (PNG)")
    given = parser.parse_args()
    pipe = FlashPipeline.from_pretrained(given.model)
    prior, device = pipe.prior, pipe.device
    net = LPIPS.load(given.lpips).to(device)
    data = open_data(pipe, [given.data], given.images)
    draw = torch.Generator().manual_seed(given.seed)
    parts: dict[str, list[Tensor]] = {"images": [], "decoded": [], "samples": []}
    shown: list[Tensor] = []
    for first in range(0, len(data), BATCH):
        x = data.batch(range(first, min(first + BATCH, len(data)))).to(device)
        z0 = prior.encode(x)
        made = sample(prior, torch.randn(z0.shape, generator=draw).to(device), given.steps)
        shown += [*made[: SHOWN - len(shown)].cpu()]
        for name, images in (("images", x), ("decoded", prior.decode(z0).clamp(0, 1)), ("samples", made)):
            parts[name].append(net.pooled(images).cpu())
    found = {name: torch.cat(rows) for name, rows in parts.items()}
    result = made_by(device, {"data": given.data, "model": given.model, "seed": given.seed, "steps": given.steps})
    result |= {
        "images": len(data),
        "fd_alex": frechet(found["samples"], found["images"]),
        "fd_alex_decoded": frechet(found["decoded"], found["images"]),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1))
    print(f"{len(data)} images: fd_alex {result['fd_alex']:.3f}, of reconstructions {result['fd_alex_decoded']:.3f}")
    if given.grid:
        save_grid([torch.stack(shown[n : n + ROW]) for n in range(0, len(shown), ROW)], given.grid)


if __name__ == "__main__":
    main()
