"""Flash(proximal) with the number of levels that severity asks for, against the same number for every image.

A fixed start takes the same estimate, made consistent with y, and noises it to the same level for all. 0 levels decode
that estimate: no denoiser at all. Adaptive starts are traced by the noise correction c.

python benchmarks/levels.py --data TEST --lpips LPIPS --task gaussian-blur --images 32 --out OUT.json
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common import measuring_parser
from flashdiffusion import FlashPipeline, Settings
from flashdiffusion.jobs.evaluate import open_data
from flashdiffusion.jobs.records import made_by
from flashdiffusion.metrics import psnr
from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.physics import get_task
from flashdiffusion.physics.tasks import measure
from flashdiffusion.priors import LatentPrior
from flashdiffusion.schedule import Grid
from flashdiffusion.solvers import Problem, StartRule
from flashdiffusion.solvers.start import Start


@dataclass(frozen=True)
class FixedLevel:
    """Start every image at position k, from the estimate of another rule."""

    rule: StartRule
    k: int

    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        start = self.rule(problem, prior, grid, noise)
        assert start.severity is not None
        abar = float(grid.abar[self.k])
        added = ((1 - abar) / abar - start.severity.var).clamp(min=0).sqrt().view(-1, 1, 1, 1)
        z = abar**0.5 * (start.severity.z_hat + added * noise)
        return replace(start, z=z, k=torch.full_like(start.k, self.k))


def main() -> None:
    parser = measuring_parser(__doc__, images=32, seed=2)
    parser.add_argument("--lpips", required=True, help="LPIPS weights")
    parser.add_argument("--task", default="gaussian-blur")
    parser.add_argument("--noise-std", type=float, default=0.05)
    parser.add_argument("--levels", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5, 6])
    parser.add_argument("--corrections", type=float, nargs="+", default=[0, 1, 2.5, 4, 7])
    given = parser.parse_args()
    pipe = FlashPipeline.from_pretrained(given.model)
    net, data, task = LPIPS.load(given.lpips), open_data(pipe, [given.data], given.images), get_task(given.task)
    x = data.batch(range(len(data)))
    measured = measure(x, data.ids, task, given.noise_std, given.seed)
    settings = pipe.settings_for(measured.physics.take(torch.tensor([0])), "flash", "proximal")
    about = {key: str(value) for key, value in vars(given).items()} | {"settings": dict(settings)}
    result = made_by(pipe.device, about) | {"rows": []}

    def measured_with(name: str, rule: StartRule) -> None:
        solver, _ = pipe.method("proximal", "flash", settings)
        done = pipe(measured.y, measured.physics, solver=solver, start=rule, seed=given.seed, ids=data.ids)
        with torch.no_grad():
            lpips: Sequence[float] = net(done.images, x).tolist()
        row = {"start": name, "nfe": float(done.nfe.float().mean()), "gflop": float(done.gflop.mean())}
        row |= {"psnr": float(psnr(done.images, x).mean()), "lpips": sum(lpips) / len(lpips), "lpips_of_images": lpips}
        result["rows"].append(row)
        print(", ".join(f"{key} {v:.4f}" if isinstance(v, float) else f"{v}" for key, v in row.items() if v != lpips))
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1))

    for c in given.corrections:
        measured_with(f"adaptive, c {c:g}", pipe.method("proximal", "flash", settings | Settings(correction=c))[1])
    _, rule = pipe.method("proximal", "flash", settings)
    for k in given.levels:
        measured_with(f"fixed, {k} levels", FixedLevel(rule, k))


if __name__ == "__main__":
    main()
