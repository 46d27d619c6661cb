"""The engine: pictures at different times share each solver step, and leave as soon as they are done."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.sampling.guided import Solver
from flashdiffusion.sampling.problem import Problem


@dataclass(frozen=True)
class Outcome:
    """A finished picture.

    index: its row in the batch. z: final latent (c, h, w). nfe: denoiser evaluations run for it.
    """

    index: int
    z: Tensor
    nfe: int


def run(
    z: Tensor,
    k: Tensor,
    problem: Problem,
    solver: Solver,
    generators: Sequence[torch.Generator],
    capacity: int = 16,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Outcome]:
    """Step every picture from its own start to clean; yield each one as soon as it is done.

    At most `capacity` pictures are in flight; a finished one's slot goes to the next in line. A picture's noise
    comes from its own generator, so capacity and order change nothing.

    Args:
        z: start latents (B, c, h, w).
        k: start positions on the solver's grid, int64 (B,); 0 is returned as it is.
        problem: the B measurements.
        generators: a CPU generator per picture.
        on_step: called with the number of pictures that each step moved.

    Raises:
        InputError: lengths that differ, k off the grid, or capacity < 1.
    """
    if not len(z) == len(k) == len(problem) == len(generators):
        raise InputError(
            f"{len(z)} latents, {len(k)} starts, {len(problem)} measurements, {len(generators)} generators; "
            "expected one of each per picture"
        )
    if capacity < 1:
        raise InputError(f"capacity is {capacity}; expected at least 1")
    left = k.cpu().clone()
    if bool(((left < 0) | (left > len(solver.grid))).any()):
        raise InputError(f"start positions {left.tolist()}; expected 0 to {len(solver.grid)}, the grid's steps")
    nfe = [0] * len(z)
    waiting = iter(range(len(z)))
    rows: list[int] = []
    part, z_part = problem, z[:0]
    while True:
        done = [index for index in rows if left[index] == 0]
        for index in done:
            yield Outcome(index, z_part[rows.index(index)], nfe[index])
        keep = [index for index in rows if left[index] > 0]
        added: list[int] = []
        while len(keep) + len(added) < capacity and (index := next(waiting, -1)) >= 0:
            if left[index] == 0:
                yield Outcome(index, z[index], 0)
            else:
                added.append(index)
        if not keep and not added:
            return
        if done or added:
            z_part = torch.cat([z_part[[rows.index(index) for index in keep]], z[added]])
            rows = keep + added
            part = problem.take(torch.tensor(rows, dtype=torch.int64, device=z.device))
        noise = torch.stack([torch.randn(z.shape[1:], generator=generators[index]) for index in rows]).to(z)
        z_part = solver.step(z_part, left[rows].to(z.device), part, noise).z
        for index in rows:
            left[index] -= 1
            nfe[index] += 1
        if on_step is not None:
            on_step(len(rows))
