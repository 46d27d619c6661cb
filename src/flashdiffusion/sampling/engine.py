"""The engine: pictures at different times share each solver step, and leave as soon as they are done."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.sampling.problem import Problem
from flashdiffusion.sampling.solver import Solver


@dataclass(frozen=True)
class Outcome:
    """A finished picture.

    index: its row in the batch. z: final latent (c, h, w). nfe: denoiser evaluations run for it. work: how often each
    of the solver's `units` ran for it.
    """

    index: int
    z: Tensor
    nfe: int
    work: Counter[str] = field(default_factory=Counter)


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

    At most `capacity` pictures are in flight; a finished one's slot goes to the next in line. Those whose next step
    is the cheapest go first, so that costly steps wait for each other and are made together. A picture's noise comes
    from its own generator, so capacity and order change nothing.

    Args:
        z: start latents (B, c, h, w).
        k: start positions on the solver's grid, int64 (B,); 0 is returned as it is.
        problem: the B measurements.
        generators: a CPU generator per picture.
        on_step: called with the number of pictures that each step moved.

    Raises:
        InputError: lengths that differ, k off the grid, capacity < 1, or a problem that the solver cannot serve.
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
    solver.check(problem)
    nfe = [0] * len(z)
    work: list[Counter[str]] = [Counter() for _ in range(len(z))]
    waiting = iter(range(len(z)))
    slots: dict[int, Tensor] = {}  # pictures in flight and where they are
    stepped: list[int] = []
    part = problem
    while True:
        for index in [index for index in slots if left[index] == 0]:
            yield Outcome(index, slots.pop(index), nfe[index], work[index])
        while len(slots) < capacity and (index := next(waiting, -1)) >= 0:
            if left[index] == 0:
                yield Outcome(index, z[index], 0)
            else:
                slots[index] = z[index]
        if not slots:
            return
        costs = solver.cost(left[[*slots]]).tolist()
        rows = [index for index, cost in zip(slots, costs, strict=True) if cost == min(costs)]
        if rows != stepped:
            stepped, part = rows, problem.take(torch.tensor(rows, dtype=torch.int64, device=z.device))
        draws = (solver.draws, *z.shape[1:])
        noise = torch.stack([torch.randn(draws, generator=generators[index]) for index in rows]).to(z)
        result = solver.step(torch.stack([slots[index] for index in rows]), left[rows].to(z.device), part, noise)
        done = {name: count.tolist() for name, count in result.work.items()}
        for position, index in enumerate(rows):
            slots[index] = result.z[position]
            left[index] -= 1
            nfe[index] += 1
            work[index].update({name: counts[position] for name, counts in done.items() if counts[position]})
        if on_step is not None:
            on_step(len(rows))
