"""The engine: images at different times share each solver step, and leave as soon as they are done."""

import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby

import torch
from torch import Tensor

from flashdiffusion.engine.capacity import Capacity, Failure, in_parts
from flashdiffusion.engine.lanes import Lanes
from flashdiffusion.errors import InputError
from flashdiffusion.solvers.problem import Problem
from flashdiffusion.solvers.solver import Solver, StepResult

# Images that wait for a slot, per slot, but not above the second number if one per slot is as many: enough to know
# early that no more will come.
LOOKAHEAD, ENOUGH = 4, 64
# Steps that an image waits for cheaper ones, or for others of the same cost which are more; then those like it go next.
PATIENCE = 20


@dataclass(frozen=True, eq=False)
class Job:
    """An image to restore: row `row` of `problem`, from the latent z (c, h, w) at position k of the solver's grid.

    generator: its own, on the CPU.

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

    def __post_init__(self) -> None:
        if not 0 <= self.k <= len(self.solver.grid):
            raise InputError(f"{self.id} starts at {self.k}; expected 0 to {len(self.solver.grid)}, the grid's steps")


@dataclass(frozen=True)
class Outcome:
    """An image that has left the engine.

    z: its latent (c, h, w), the final one unless it failed. nfe: denoiser evaluations run for it. work: how often each
    of the solver's `units` ran for it. seconds: its share of the steps it took part in. failed: why it was given up.
    """

    job: Job
    z: Tensor
    nfe: int = 0
    work: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    failed: str | None = None


@dataclass(eq=False)
class _Slot:
    """An image in flight, `left` steps from clean."""

    job: Job
    z: Tensor
    left: int
    nfe: int = 0
    work: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    noise: Tensor | None = None  # of the next step, drawn once however often that step is tried
    waited: int = 0  # steps of others since its last

    @property
    def kind(self) -> Hashable:
        """Those of equal kind can share a step."""
        return id(self.job.solver), self.job.z.shape, self.job.problem.kind

    def outcome(self, failed: str | None = None) -> Outcome:
        return Outcome(self.job, self.z, self.nfe, self.work, self.seconds, failed)


def run(
    batches: Iterable[Sequence[Job]],
    max_in_flight: int | Capacity = 16,
    on_step: Callable[[int], None] | None = None,
    static: bool = False,
    on_estimates: Callable[[list[Job], Tensor], None] | None = None,
) -> Iterator[Outcome]:
    """Step every image from its own start to clean; yield each one as soon as it is done.

    At most `max_in_flight` images are in flight; a finished one's slot goes to the next in line: first come, first
    served, and the longest first once no more are to come. A step takes those whose next step is the cheapest, so that
    costly steps wait for each other and are made together, but none for more than `PATIENCE` steps. Batches are asked
    for as slots come free. An image's noise comes from its own generator, so batches and order change nothing.

    A step that runs out of memory is made in halves, which bound the steps of that kind of image from then on. A
    image that makes a step fail is given up with the reason, and the others go on.

    Args:
        on_step: called with the number of images that each step moved.
        on_estimates: called with the images that stepped together and their clean estimates z0 (n, c, h, w).
        static: fill every step up to a power of two, so that compiled networks see few shapes.

    Raises:
        InputError: max_in_flight < 1.
    """
    slots = max_in_flight if isinstance(max_in_flight, Capacity) else Capacity(max_in_flight)
    return _Engine(slots, on_step, static, on_estimates).run(iter(batches))


class _Engine:
    """State of one `run`."""

    def __init__(
        self,
        max_in_flight: Capacity,
        on_step: Callable[[int], None] | None,
        static: bool,
        on_estimates: Callable[[list[Job], Tensor], None] | None,
    ) -> None:
        self.on_estimates = on_estimates
        self.max_in_flight, self.on_step, self.static = max_in_flight, on_step, static
        self.lanes: Lanes | None = None
        self.waiting: deque[Job] = deque()
        self.slots: list[_Slot] = []
        self.joined: dict[tuple[_Slot, ...], Problem] = {}  # who stepped together last, and their measurements

    def run(self, batches: Iterator[Sequence[Job]]) -> Iterator[Outcome]:
        try:
            yield from self._run(batches)
        finally:
            if self.lanes is not None:
                self.lanes.close()

    def _run(self, batches: Iterator[Sequence[Job]]) -> Iterator[Outcome]:
        more = True
        while True:
            # What slots need is waited for; what is to wait for a slot comes a batch at a step.
            while more and len(self.waiting) + len(self.slots) < self.max_in_flight.rows:
                more = self._receive(next(batches, None))
            rows = self.max_in_flight.rows
            if more and len(self.waiting) < max(rows, min(LOOKAHEAD * rows, ENOUGH)):
                more = self._receive(next(batches, None))
            yield from self._admit()
            # A batch can be done as soon as it comes (k = 0): an empty engine is no sign that no more will.
            if not more and not self.slots and not self.waiting:
                return
            if self.slots:
                yield from self._advance(self._next())
                yield from self._retire()

    def _receive(self, batch: Sequence[Job] | None) -> bool:
        """Put a batch in line; without one, those in line are the last. Whether more may come."""
        if batch is None:
            self.waiting = deque(sorted(self.waiting, key=lambda job: -job.k))
            return False
        for job in batch:
            self.max_in_flight.fit(_Slot(job, job.z, job.k).kind, job.solver, job.problem, job.row, job.z)
        self.waiting += batch
        return True

    def _admit(self) -> Iterator[Outcome]:
        while self.waiting and len(self.slots) < self.max_in_flight.rows:
            job = self.waiting.popleft()
            if job.k == 0:
                yield Outcome(job, job.z)
            else:
                self.slots.append(_Slot(job, job.z, job.k))

    def _retire(self) -> Iterator[Outcome]:
        done = [slot for slot in self.slots if slot.left == 0]
        self.slots = [slot for slot in self.slots if slot.left > 0]
        yield from (slot.outcome() for slot in done)

    def _next(self) -> list[_Slot]:
        """Images that can share a step: those of one who waited too long, else the cheapest, of equal cost the most."""
        groups: dict[tuple[float, Hashable], list[_Slot]] = {}
        for solver in {id(slot.job.solver): slot.job.solver for slot in self.slots}.values():
            own = [slot for slot in self.slots if slot.job.solver is solver]
            for slot, cost in zip(own, solver.cost(torch.tensor([slot.left for slot in own])).tolist(), strict=True):
                groups.setdefault((cost, slot.kind), []).append(slot)

        def urgency(group: tuple[float, Hashable]) -> tuple[int, float, int]:
            waited = max(slot.waited for slot in groups[group])
            return -waited if waited >= PATIENCE else 0, group[0], -len(groups[group])

        _, kind = first = min(groups, key=urgency)
        longest_waiting = sorted(groups[first], key=lambda slot: -slot.waited)
        chosen = longest_waiting[: self.max_in_flight.limit(kind).rows]
        for slot in self.slots:
            slot.waited += 1
        for slot in chosen:
            slot.waited = 0
        return chosen

    def _advance(self, chosen: list[_Slot]) -> Iterator[Outcome]:
        """Move them one step; give up those that cannot be."""
        began = time.perf_counter()
        outcomes = []
        limit = self.max_in_flight.limit(chosen[0].kind)
        if self.lanes is None:
            self.lanes = Lanes(chosen[0].z.device, self.max_in_flight.rows)
        parts = [chosen] if self.static else self.lanes.split(chosen)
        self.joined = {rows: self.joined[rows] for rows in map(tuple, parts) if rows in self.joined}
        done = self.lanes.map(lambda part: list(in_parts(self._step, part, limit)), parts)
        for rows, result in chain.from_iterable(done):
            if isinstance(result, Failure):
                outcomes += [slot.outcome(result.reason) for slot in rows]
                self.slots = [slot for slot in self.slots if slot not in rows]
                continue
            if self.on_estimates is not None:
                self.on_estimates([slot.job for slot in rows], result.z0)
            work = {name: count.tolist() for name, count in result.work.items()}
            for position, slot in enumerate(rows):
                slot.z, slot.noise = result.z[position], None
                slot.left -= 1
                slot.nfe += 1
                slot.work.update({name: counts[position] for name, counts in work.items() if counts[position]})
        if self.on_step is not None:
            self.on_step(len(chosen))
        share = (time.perf_counter() - began) / len(chosen)
        for slot in chosen:
            slot.seconds += share
        yield from outcomes

    def _step(self, rows: list[_Slot]) -> StepResult:
        """One step of all rows; with `static` the last one fills up the batch, and what that gives is dropped."""
        for slot in rows:
            if slot.noise is None:
                shape = (slot.job.solver.draws, *slot.z.shape)
                slot.noise = torch.randn(shape, generator=slot.job.generator)
        together = tuple(rows)
        problem = self.joined.get(together) or _join(rows)  # here, where what the physics refuses fails its image
        self.joined[together] = problem
        count = len(rows)
        if self.static:
            torch.compiler.cudagraph_mark_step_begin()  # what the last step's graphs gave is no longer used
        if self.static and (full := power_of_two(count)) > count:
            filled = [*range(count), *[count - 1] * (full - count)]
            rows, problem = [rows[n] for n in filled], problem.take(torch.tensor(filled))
        z = torch.stack([slot.z for slot in rows])
        noise = _to_device(torch.stack([slot.noise for slot in rows if slot.noise is not None]), z)
        k = torch.tensor([slot.left for slot in rows])
        result = rows[0].job.solver.step(z, k, problem, noise)
        return StepResult(result.z[:count], result.z0[:count], {name: n[:count] for name, n in result.work.items()})


def _join(rows: Sequence[_Slot]) -> Problem:
    """Their measurements in one problem."""
    parts: list[Problem] = []
    for _, own in groupby(rows, key=lambda slot: id(slot.job.problem)):
        jobs = [slot.job for slot in own]
        parts.append(jobs[0].problem.take(torch.tensor([job.row for job in jobs])))
    return Problem.join(parts)


def power_of_two(count: int) -> int:
    """The least that is not below `count` >= 1."""
    return 1 << (count - 1).bit_length()


def _to_device(noise: Tensor, z: Tensor) -> Tensor:
    """Noise drawn on the CPU beside z, without waiting for what the device is busy with."""
    if z.device.type == "cuda":
        noise = noise.pin_memory()
    return noise.to(z, non_blocking=True)
