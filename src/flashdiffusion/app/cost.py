"""What the same solver would cost from pure noise."""

import torch

from flashdiffusion.app.told import Cost
from flashdiffusion.engine.tiling import Tiling, tiling_of
from flashdiffusion.jobs.tiles import InTiles
from flashdiffusion.methods import Settings, parse_method
from flashdiffusion.metrics import count_gflop
from flashdiffusion.model import Model
from flashdiffusion.solvers import Problem


def solver_from_noise(method: str) -> str:
    """The solver that a method's cost is compared with: its own, proximal if it makes no steps."""
    _, solver = parse_method(method)
    return "proximal" if solver == "prior" else solver


def cost_from_noise(model: Model, problem: Problem, method: str, given: Settings | None = None) -> Cost:
    """Count a method's solver from pure noise on one picture, as `flashdiffusion restore` would run it.

    One step is made and counted, and stands for the others by their relative cost; the decoder is counted too. Of a
    picture in tiles, one tile is, and stands for all by their area.
    """
    name = solver_from_noise(method)
    tiling = tiling_of(problem.y, problem.physics, model, None)
    share = 1.0
    if isinstance(tiling, Tiling):
        problem = model.check(InTiles(problem, tiling).first)
        windows = [tiling.window(*place) for place in tiling.places]
        areas = [window.height * window.width for window in windows]
        share = sum(areas) / areas[0]
    else:
        problem = model.check(problem)
    solver, _ = model.method(name, "noise", model.settings_for(problem.physics, "noise", name, given))
    steps = len(solver.grid)
    height, width = problem.image.shape[2:]
    generator = torch.Generator().manual_seed(0)
    shape = model.prior.latent_shape((height, width))
    z = torch.randn(1, *shape, generator=generator).to(model.device)
    noise = torch.randn(1, solver.draws, *shape, generator=generator).to(model.device)
    one = count_gflop(lambda: solver.step(z, torch.tensor([steps]), problem, noise))
    relative = solver.cost(torch.arange(1, steps + 1)).double()
    with torch.no_grad():
        decoding = count_gflop(lambda: model.prior.decode(z))
    return Cost(steps, share * (one * float((relative / relative[-1]).sum()) + decoding))
