"""The engine: images at different times share each solver step, and leave as soon as they are done."""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.engine.capacity import Capacity, Failure, in_parts
from flashdiffusion.engine.cost import Costs
from flashdiffusion.engine.lanes import Lanes
from flashdiffusion.engine.memory import KeptMemory
from flashdiffusion.errors import InputError
from flashdiffusion.solvers.problem import Problem
from flashdiffusion.solvers.solver import Solver, StepResult

# Images that wait for a slot, per slot, but not above the second number if one per slot is as many: enough to know
# early that no more will come.
LOOKAHEAD, ENOUGH = 4, 64
# Steps that an image waits for cheaper ones, or for others of the same cost which are more; then those like it go next.
PATIENCE = 20


@dataclass(frozen=True, eq=False)
class Started:
    """An image to restore: row `row` of `problem`, from the latent z (c, h, w) at position k of the solver's grid.

    generator: its own, on the CPU. operators: what the arithmetic of its physics depends on, beside its size. extra:
    anything that its outcome is to carry.

    Raises:
        InputError: k off the grid; 0 is allowed and takes no step.
    """

    id: str
    z: Tensor
    k: int
    problem: Problem
    row: int
    solver: Solver
    generator: torch.Generator
    operators: Hashable = None
    extra: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.k <= len(self.solver.grid):
            raise InputError(f"{self.id} starts at {self.k}; expected 0 to {len(self.solver.grid)}, the grid's steps")


@dataclass(frozen=True)
class Outcome:
    """An image that has left the engine.

    z: its latent (c, h, w), the final one unless it failed. nfe: denoiser evaluations run for it. gflop: arithmetic of
    its steps. seconds: its share of the steps it took part in. failed: why it was given up.
    """

    started: Started
    z: Tensor
    nfe: int = 0
    gflop: float = 0.0
    seconds: float = 0.0
    failed: str | None = None


@dataclass(eq=False)
class _Slot:
    """An image in flight, `left` steps from clean."""

    started: Started
    z: Tensor
    left: int
    nfe: int = 0
    gflop: float = 0.0
    seconds: float = 0.0
    noise: Tensor | None = None  # of the next step, drawn once however often that step is tried
    waited: int = 0  # steps of others since its last
    cost: float = 1.0  # of the next step

    @property
    def kind(self) -> Hashable:
        """Those of equal kind can share a step."""
        return id(self.started.solver), self.z.shape, self.started.problem.kind, self.cost

    @property
    def arithmetic(self) -> Hashable:
        """Those for which it is equal cost the same."""
        problem = self.started.problem
        return id(self.started.solver), self.z.shape, problem.y.shape[1:], self.started.operators, self.cost

    def outcome(self, failed: str | None = None) -> Outcome:
        return Outcome(self.started, self.z, self.nfe, self.gflop, self.seconds, failed)


class Slots:
    """Images in flight, each with a slot, from its own start to clean.

    At most `max_in_flight` images are in flight; a finished one's slot goes to the next in line: first come, first
    served, and the longest first once no more are to come. A step takes those whose next step is the cheapest, so that
    costly steps wait for each other and are made together, but none for more than `PATIENCE` steps. An image's noise
    comes from its own generator, so batches and order change nothing.

    A step that runs out of memory is made in halves, which bound the steps of that kind of image from then on. An
    image that makes a step fail is given up with the reason, and the others go on.

    Args:
        max_in_flight: images in flight at a time, >= 1, or a capacity that finds out.
        on_step: called with the number of images that each step moved.
        static: fill every step up to a power of two, so that compiled networks see few shapes.
        on_estimates: called with the images that stepped together and their clean estimates z0 (n, c, h, w).
        costs: what is known of the arithmetic of steps, to be added to.

    Raises:
        InputError: max_in_flight < 1.
    """

    def __init__(
        self,
        max_in_flight: int | Capacity = 16,
        on_step: Callable[[int], None] | None = None,
        static: bool = False,
        on_estimates: Callable[[list[Started], Tensor], None] | None = None,
        costs: Costs | None = None,
    ) -> None:
        self.capacity = max_in_flight if isinstance(max_in_flight, Capacity) else Capacity(max_in_flight)
        self.on_step, self.static, self.on_estimates = on_step, static, on_estimates
        self.costs = Costs() if costs is None else costs
        self.lanes: Lanes | None = None
        self.waiting: deque[Started] = deque()
        self.slots: list[_Slot] = []
        self.joined: dict[tuple[_Slot, ...], Problem] = {}  # who stepped together last, and their measurements

    def run(self, batches: Iterable[Sequence[Started]]) -> Iterator[Outcome]:
        """Restore all; each is yielded as soon as it is done. Batches are asked for as slots come free."""
        try:
            yield from self._run(iter(batches))
        finally:
            if self.lanes is not None:
                self.lanes.close()

    def _run(self, batches: Iterator[Sequence[Started]]) -> Iterator[Outcome]:
        more = True
        while True:
            # What slots need is waited for; what is to wait for a slot comes a batch at a step.
            while more and len(self.waiting) + len(self.slots) < self.capacity.rows:
                more = self._receive(next(batches, None))
            rows = self.capacity.rows
            if more and len(self.waiting) < max(rows, min(LOOKAHEAD * rows, ENOUGH)):
                more = self._receive(next(batches, None))
            yield from self._admit()
            # A batch can be done as soon as it comes (k = 0): an empty engine is no sign that no more will.
            if not more and not self.slots and not self.waiting:
                return
            if self.slots:
                yield from self._advance(self._next())
                yield from self._retire()

    def _receive(self, batch: Sequence[Started] | None) -> bool:
        """Put a batch in line; without one, those in line are the last. Whether more may come."""
        if batch is None:
            self.waiting = deque(sorted(self.waiting, key=lambda started: -started.k))
            return False
        self.waiting += batch
        return True

    def _admit(self) -> Iterator[Outcome]:
        while self.waiting and len(self.slots) < self.capacity.rows:
            started = self.waiting.popleft()
            if started.k == 0:
                yield Outcome(started, started.z)
            else:
                self.slots.append(_Slot(started, started.z, started.k))

    def _retire(self) -> Iterator[Outcome]:
        done = [slot for slot in self.slots if slot.left == 0]
        self.slots = [slot for slot in self.slots if slot.left > 0]
        yield from (slot.outcome() for slot in done)

    def _next(self) -> list[_Slot]:
        """Images that can share a step: those of one who waited too long, else the cheapest, of equal cost the most."""
        for solver in {id(slot.started.solver): slot.started.solver for slot in self.slots}.values():
            own = [slot for slot in self.slots if slot.started.solver is solver]
            for slot, cost in zip(own, solver.cost(torch.tensor([slot.left for slot in own])).tolist(), strict=True):
                slot.cost = cost
        groups: dict[Hashable, list[_Slot]] = {}
        for slot in self.slots:
            groups.setdefault(slot.kind, []).append(slot)

        def urgency(group: list[_Slot]) -> tuple[int, float, int]:
            waited = max(slot.waited for slot in group)
            return -waited if waited >= PATIENCE else 0, group[0].cost, -len(group)

        first = min(groups.values(), key=urgency)
        longest_waiting = sorted(first, key=lambda slot: -slot.waited)
        chosen = longest_waiting[: self.capacity.limit(first[0].kind).rows]
        for slot in self.slots:
            slot.waited += 1
        for slot in chosen:
            slot.waited = 0
        return chosen

    def _advance(self, chosen: list[_Slot]) -> Iterator[Outcome]:
        """Move them one step; give up those that cannot be."""
        began = time.perf_counter()
        outcomes = []
        limit = self.capacity.limit(chosen[0].kind)
        if self.lanes is None:
            self.lanes = Lanes(chosen[0].z.device, self.capacity.rows)
        parts = [chosen] if self.static else self.lanes.split(chosen)
        parts = [alike for part in parts for alike in self._counted_apart(part)]
        self.joined = {rows: self.joined[rows] for rows in map(tuple, parts) if rows in self.joined}
        done = self.lanes.map(lambda part: list(in_parts(self._step, part, limit)), parts)
        for rows, result in chain.from_iterable(done):
            if isinstance(result, Failure):
                outcomes += [slot.outcome(result.reason) for slot in rows]
                self.slots = [slot for slot in self.slots if slot not in rows]
                continue
            step, gflop = result
            if self.on_estimates is not None:
                self.on_estimates([slot.started for slot in rows], step.z0[: len(rows)])
            for position, slot in enumerate(rows):
                slot.z, slot.noise = step.z[position], None
                slot.left -= 1
                slot.nfe += 1
                slot.gflop += gflop[position]
        if self.on_step is not None:
            self.on_step(len(chosen))
        share = (time.perf_counter() - began) / len(chosen)
        for slot in chosen:
            slot.seconds += share
        yield from outcomes

    def _counted_apart(self, rows: list[_Slot]) -> list[list[_Slot]]:
        """The rows, but those whose arithmetic is not known yet apart, each kind of them by itself."""
        parts: dict[Hashable, list[_Slot]] = {}
        for slot in rows:
            kind = slot.arithmetic
            parts.setdefault(None if self.costs.known(kind) else kind, []).append(slot)
        return list(parts.values())

    def _step(self, rows: list[_Slot]) -> tuple[StepResult, list[float]]:
        """One step of all rows and the GFLOP of each; with `static` the last one fills up the batch."""
        for slot in rows:
            if slot.noise is None:
                shape = (slot.started.solver.draws, *slot.z.shape)
                slot.noise = torch.randn(shape, generator=slot.started.generator)
        together = tuple(rows)
        problem = self.joined.get(together) or _join(rows)  # here, where what the physics refuses fails its image
        self.joined[together] = problem
        if self.static:
            torch.compiler.cudagraph_mark_step_begin()  # what the last step's graphs gave is no longer used
            filled = [*range(len(rows)), *[len(rows) - 1] * (power_of_two(len(rows)) - len(rows))]
            if len(filled) > len(rows):
                rows, problem = [rows[n] for n in filled], problem.take(torch.tensor(filled))
        z = torch.stack([slot.z for slot in rows])
        noise = _to_device(torch.stack([slot.noise for slot in rows if slot.noise is not None]), z)
        k = torch.tensor([slot.left for slot in rows])
        kinds = [slot.arithmetic for slot in rows]
        fits = self.capacity.fits(rows[0].kind)
        with nullcontext() if fits else KeptMemory() as kept:
            result = self.costs.step(kinds, rows[0].started.solver, z, k, problem, noise)
        if isinstance(kept, KeptMemory):
            self.capacity.fit(rows[0].kind, kept.bytes / len(rows), z.device)
        return result


def _join(rows: Sequence[_Slot]) -> Problem:
    """Their measurements in one problem."""
    parts: list[Problem] = []
    for _, own in groupby(rows, key=lambda slot: id(slot.started.problem)):
        started = [slot.started for slot in own]
        parts.append(started[0].problem.take(torch.tensor([one.row for one in started])))
    return Problem.join(parts)


def power_of_two(count: int) -> int:
    """The least that is not below `count` >= 1."""
    return 1 << (count - 1).bit_length()


def _to_device(noise: Tensor, z: Tensor) -> Tensor:
    """Noise drawn on the CPU beside z, without waiting for what the device is busy with."""
    if z.device.type == "cuda":
        noise = noise.pin_memory()
    return noise.to(z, non_blocking=True)
