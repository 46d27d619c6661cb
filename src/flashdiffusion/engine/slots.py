"""The engine: images at different times share each solver step, and leave as soon as they are done."""

import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.engine.batch import Restored
from flashdiffusion.engine.cancellation import Cancellation
from flashdiffusion.engine.capacity import Capacity, Failure, Row, in_parts
from flashdiffusion.engine.cost import Costs
from flashdiffusion.engine.lanes import Lanes
from flashdiffusion.engine.memory import KeptMemory
from flashdiffusion.engine.noise import NoiseSource
from flashdiffusion.errors import InputError
from flashdiffusion.solvers.problem import Problem
from flashdiffusion.solvers.solver import Solver, StepResult

# Images that wait for a slot, per slot, but not above the second number if one per slot is as many: enough to know
# early that no more will come.
LOOKAHEAD, ENOUGH = 4, 64
END: list[Any] = []  # in place of a batch: no more will come
# Steps that an image waits for cheaper ones, or for others of the same cost which are more; then those like it go next.
PATIENCE = 20


@dataclass(eq=False)
class InFlight:
    """An image on its way: row `row` of `problem`, now at latent z (c, h, w) and position k of the solver's grid.

    result: what comes of it, filled in on the way. source: of its noise. operators: what the arithmetic of
    its physics depends on, beside its size. noise: of its next step, drawn once however often that step is tried.
    waited: steps of others since its last. cost: of its next step. image: the finished one, (3, H, W), where z is not
    to be decoded. cancellation: by what it may be given up.

    Raises:
        InputError: k off the grid; 0 is allowed and takes no step.
    """

    result: Restored
    z: Tensor
    k: int
    problem: Problem
    row: int
    solver: Solver
    source: NoiseSource
    operators: Hashable = None
    noise: Tensor | None = None
    waited: int = 0
    cost: float = 1.0
    image: Tensor | None = None
    cancellation: Cancellation | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.k <= len(self.solver.grid):
            raise InputError(
                f"{self.result.id} starts at {self.k}; expected 0 to {len(self.solver.grid)}, the grid's steps"
            )

    @property
    def done(self) -> bool:
        """Whether it is clean, or given up."""
        return self.k == 0 or self.result.failed is not None

    def heed(self) -> None:
        """Give it up if it is cancelled."""
        if self.cancellation is not None and self.cancellation.reason is not None and not self.done:
            self.result.fail(self.cancellation.reason)

    @property
    def kind(self) -> Hashable:
        """Those of equal kind can share a step."""
        return id(self.solver), self.z.shape, self.problem.kind, self.cost

    @property
    def arithmetic(self) -> Hashable:
        """Those for which it is equal cost the same."""
        return id(self.solver), self.z.shape, self.problem.y.shape[1:], self.operators, self.cost


class Slots:
    """Images in flight, each with a slot, from its own start to clean.

    At most `max_in_flight` images are in flight; a finished one's slot goes to the next in line: first come, first
    served, and the longest first once no more are to come. A step takes those whose next step is the cheapest, so that
    costly steps wait for each other and are made together, but none for more than `PATIENCE` steps. An image's noise
    is its own (`engine.noise`), so batches and order change nothing.

    With `turns`, tiles of a picture share what one image has a right to (`Restored.whose`): a slot goes to those who
    have the fewest, and to wait for a step of sixteen tiles is to wait for sixteen steps.

    A step that runs out of memory is made in halves, which bound the steps of that kind of image from then on. An
    image that makes a step fail is given up with the reason, and the others go on.

    Args:
        max_in_flight: images in flight at a time, >= 1, or a capacity that finds out.
        on_step: called with the number of images that each step moved.
        static: fill every step up to a power of two, so that compiled networks see few shapes.
        on_estimates: called with the images that stepped together and their clean estimates z0 (n, c, h, w).
        costs: what is known of the arithmetic of steps, to be added to.
        turns: whether pictures in tiles and other images take turns.

    Raises:
        InputError: max_in_flight < 1.
    """

    def __init__(
        self,
        max_in_flight: int | Capacity = 16,
        on_step: Callable[[int], None] = lambda images: None,
        static: bool = False,
        on_estimates: Callable[[list[InFlight], Tensor], None] | None = None,
        costs: Costs | None = None,
        turns: bool = False,
    ) -> None:
        self.turns = turns
        self.capacity = max_in_flight if isinstance(max_in_flight, Capacity) else Capacity(max_in_flight)
        self.on_step, self.static, self.on_estimates = on_step, static, on_estimates
        self.costs = Costs() if costs is None else costs
        self.lanes: Lanes | None = None
        self.waiting: deque[InFlight] = deque()
        self.slots: list[InFlight] = []
        self.joined: dict[tuple[InFlight, ...], Problem] = {}  # who stepped together last, and their measurements

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do until another batch comes."""
        return not self.slots and not self.waiting

    def run(self, batches: Iterable[Sequence[InFlight] | None]) -> Iterator[list[InFlight]]:
        """Restore all; each is yielded as soon as it is done, with others, if there are any. Lists may be empty.

        Batches are asked for as slots come free, and waited for. None in place of one says that there is none at the
        moment: those in flight go on, and it is asked for again at the next step.
        """
        try:
            yield from self._run(iter(batches))
        finally:
            if self.lanes is not None:
                self.lanes.close()

    def _run(self, batches: Iterator[Sequence[InFlight] | None]) -> Iterator[list[InFlight]]:
        more = True
        while True:
            # What slots need is waited for; what is to wait for a slot comes a batch at a step.
            while more and len(self.waiting) + len(self.slots) < self.capacity.rows:
                if (batch := next(batches, END)) is None:
                    break
                more = self._receive(batch)
                yield []  # what failed on its way here is given before another is waited for
            rows = self.capacity.rows
            # Tiles in line are no reason to let others wait outside.
            line = len({one.result.whose for one in self.waiting}) if self.turns else len(self.waiting)
            if more and line < max(rows, min(LOOKAHEAD * rows, ENOUGH)):
                more = self._receive(next(batches, END))
            yield self._admit()
            # A batch can be done as soon as it comes (k = 0): an empty engine is no sign that no more will.
            if not more and self.idle:
                return
            if self.slots:
                self._advance(self._next())
                yield self._retire()

    def _receive(self, batch: Sequence[InFlight] | None) -> bool:
        """Put a batch in line, if there is one; at the end, those in line are the last. Whether more may come."""
        if batch is END:
            self.waiting = deque(sorted(self.waiting, key=lambda one: -one.k))
            return False
        self.waiting += batch or ()
        return True

    def _admit(self) -> list[InFlight]:
        """Fill the slots; give those in line that are done already."""
        done: list[InFlight] = []
        while self.waiting and len(self.slots) < self.capacity.rows:
            one = self._first()
            one.heed()
            (done if one.done else self.slots).append(one)
        return done + self._retire()

    def _first(self) -> InFlight:
        """Take the next out of the line."""
        if not self.turns:
            return self.waiting.popleft()
        held = Counter(one.result.whose for one in self.slots)
        first = min(self.waiting, key=lambda one: held[one.result.whose])
        self.waiting.remove(first)
        return first

    def _retire(self) -> list[InFlight]:
        """Empty the slots of those that are done, or given up."""
        for one in self.slots:
            one.heed()
        done = [one for one in self.slots if one.done]
        self.slots = [one for one in self.slots if not one.done]
        return done

    def _next(self) -> list[InFlight]:
        """Images that can share a step: those of one who waited too long, else the cheapest, of equal cost the most."""
        for solver in {id(one.solver): one.solver for one in self.slots}.values():
            own = [one for one in self.slots if one.solver is solver]
            for one, cost in zip(own, solver.cost(torch.tensor([one.k for one in own])).tolist(), strict=True):
                one.cost = cost
        groups: dict[Hashable, list[InFlight]] = {}
        for one in self.slots:
            groups.setdefault(one.kind, []).append(one)

        def urgency(group: list[InFlight]) -> tuple[int, float, int, int]:
            waited = max(one.waited for one in group)
            many = len({one.result.whose for one in group}) if self.turns else len(group)
            return -waited if waited >= PATIENCE else 0, group[0].cost, -many, -waited if self.turns else 0

        first = min(groups.values(), key=urgency)
        longest_waiting = sorted(first, key=lambda one: -one.waited)
        chosen = longest_waiting[: self.capacity.limit(first[0].kind).rows]
        stepped = Counter(one.result.whose for one in chosen)
        for one in self.slots:
            others = [count for whose, count in stepped.items() if whose != one.result.whose]
            one.waited += max(others, default=1) if self.turns else 1
        for one in chosen:
            one.waited = 0
        return chosen

    def _advance(self, chosen: list[InFlight]) -> None:
        """Move them one step; give up those that cannot be."""
        began = time.perf_counter()
        limit = self.capacity.limit(chosen[0].kind)
        if self.lanes is None:
            self.lanes = Lanes(chosen[0].z.device, self.capacity.rows)
        parts = [chosen] if self.static else self.lanes.split(chosen)
        parts = [alike for part in parts for alike in self._counted_apart(part)]
        self.joined = {rows: self.joined[rows] for rows in map(tuple, parts) if rows in self.joined}
        done = self.lanes.map(lambda part: list(in_parts(self._step, part, limit)), parts)
        for rows, result in chain.from_iterable(done):
            if isinstance(result, Failure):
                for one in rows:
                    one.result.fail(result.reason)
                continue
            step, gflop = result
            if self.on_estimates is not None:
                self.on_estimates(rows, step.z0[: len(rows)])
            for position, one in enumerate(rows):
                one.z, one.k, one.noise = step.z[position], one.k - 1, None
                if step.image is not None and one.k == 0:
                    one.image = step.image[position]
                one.result.nfe += 1
                one.result.gflop += gflop[position]
        self.on_step(len(chosen))
        share = (time.perf_counter() - began) / len(chosen)
        for one in chosen:
            one.result.seconds += share

    def _counted_apart(self, rows: list[InFlight]) -> list[list[InFlight]]:
        """The rows, but those whose arithmetic is not known yet apart, each kind of them by itself."""
        parts: dict[Hashable, list[InFlight]] = {}
        for one in rows:
            kind = one.arithmetic
            parts.setdefault(None if self.costs.known(kind) else kind, []).append(one)
        return list(parts.values())

    def _step(self, rows: list[InFlight]) -> tuple[StepResult, list[float]]:
        """One step of all rows and the GFLOP of each; with `static` the last one fills up the batch."""
        for one in rows:
            if one.noise is None:
                shape = (one.solver.draws, *one.z.shape)
                one.noise = one.source(shape, one.k)
        together = tuple(rows)
        problem = self.joined.get(together) or _join(rows)  # here, where what the physics refuses fails its image
        self.joined[together] = problem
        if self.static:
            torch.compiler.cudagraph_mark_step_begin()  # what the last step's graphs gave is no longer used
            places = filled(range(len(rows)))
            if len(places) > len(rows):
                rows, problem = [rows[n] for n in places], problem.take(torch.tensor(places))
        z = torch.stack([one.z for one in rows])
        noise = _to_device(torch.stack([one.noise for one in rows if one.noise is not None]), z)
        k = torch.tensor([one.k for one in rows])
        kinds = [one.arithmetic for one in rows]
        fits = self.capacity.fits(rows[0].kind)
        with nullcontext() if fits else KeptMemory() as kept:
            result = self.costs.step(kinds, rows[0].solver, z, k, problem, noise)
        if isinstance(kept, KeptMemory):
            self.capacity.fit(rows[0].kind, kept.bytes / len(rows), z.device)
        return result


def _join(rows: Sequence[InFlight]) -> Problem:
    """Their measurements in one problem."""
    parts: list[Problem] = []
    for _, own in groupby(rows, key=lambda one: id(one.problem)):
        slots = [*own]
        parts.append(slots[0].problem.take(torch.tensor([one.row for one in slots])))
    return Problem.join(parts)


def filled(rows: Sequence[Row]) -> list[Row]:
    """The rows, and the last of them again until they are a power of two."""
    return [*rows, *[rows[-1]] * ((1 << (len(rows) - 1).bit_length()) - len(rows))]


def _to_device(noise: Tensor, z: Tensor) -> Tensor:
    """Noise drawn on the CPU beside z, without waiting for what the device is busy with."""
    if z.device.type == "cuda":
        noise = noise.pin_memory()
    return noise.to(z, non_blocking=True)
