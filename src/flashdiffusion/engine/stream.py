"""From batches of measurements to restored images, as they finish."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flashdiffusion.data import prefetched
from flashdiffusion.engine.batch import Batch, Restored
from flashdiffusion.engine.capacity import Capacity, Failure, Limit, in_parts
from flashdiffusion.engine.cost import operators_of
from flashdiffusion.engine.slots import Job, Outcome, power_of_two, run
from flashdiffusion.errors import InputError
from flashdiffusion.methods import Settings
from flashdiffusion.metrics import count_gflop
from flashdiffusion.physics import BatchedPhysics, Mixed
from flashdiffusion.seeds import image_generator
from flashdiffusion.solvers import Solver, StartRule
from flashdiffusion.types import Physics

if TYPE_CHECKING:
    from flashdiffusion.pipeline.pipeline import FlashPipeline

START_ROWS = 64  # measurements that are given their start together


@dataclass(frozen=True)
class _Begun:
    """What is known of an image when it gets its start."""

    index: int
    rule: StartRule
    operators: object
    severity: float | None
    nfe: int | None
    seconds: float


class Stream:
    """One run of a pipeline over batches; see `FlashPipeline.stream`."""

    def __init__(
        self,
        pipeline: "FlashPipeline",
        solver: str | Solver,
        start: str | StartRule,
        seed: int,
        settings: Settings | None,
        max_in_flight: int | None,
        on_plan: Callable[[int], None],
        on_step: Callable[[int], None],
        static: bool,
        callback: Callable[[int, Tensor, list[str]], None] | None = None,
    ) -> None:
        self.callback, self.steps = callback, 0
        self.pipeline, self.solver, self.start = pipeline, solver, start
        self.seed, self.settings = seed, settings
        self.on_plan, self.on_step, self.static = on_plan, on_step, static
        self.max_in_flight, self.start_rows, self.decode_rows = (
            Capacity(max_in_flight),
            Limit(START_ROWS),
            Limit(START_ROWS),
        )
        self.device = pipeline.prior.device
        self.made: dict[Settings, tuple[Solver, StartRule]] = {}  # equal settings share a solver, and so its steps
        self.begun: dict[Job, _Begun] = {}
        self.taken = self.given = 0  # images in and out
        self.broken: Exception | None = None  # what ended the source of batches
        self.refused: deque[Restored] = deque()  # those that got no start
        self.copying: deque[tuple[list[Outcome], Tensor, torch.cuda.Event | None, float]] = deque()

    def run(self, batches: Iterable[Batch]) -> Iterator[Restored]:
        """Restore; each image is yielded once, in the order in which they finish.

        An error of the source of batches is raised once all that came before it has been given.

        Raises:
            RuntimeError: an image has neither a result nor a failure, which would be a fault of this library.
        """
        for one in self._run(batches):
            self.given += 1
            yield one
        if self.broken is not None:
            raise self.broken
        if self.given != self.taken:
            raise RuntimeError(f"{self.taken} images went in and {self.given} came out; please report this fault")

    def _run(self, batches: Iterable[Batch]) -> Iterator[Restored]:
        finished: list[Outcome] = []
        view = None if self.callback is None else self._view
        for outcome in run(prefetched(self._jobs(batches)), self.max_in_flight, self.on_step, self.static, view):
            finished.append(outcome)
            if len(finished) * 4 >= self.max_in_flight.rows:  # decoding one at a time would leave a GPU idle
                yield from self._decoded(finished)
                finished = []
            yield from self._taken(self.refused)
        yield from self._decoded(finished)
        yield from self._delivered(0)
        yield from self._taken(self.refused)

    # -- starts, made one batch ahead in a thread of their own --------------------------------------------

    def _jobs(self, batches: Iterable[Batch]) -> Iterator[list[Job]]:
        source = iter(batches)
        while True:
            try:
                batch = next(source)
            except StopIteration:
                return
            except Exception as error:
                self.broken = error  # raised by `run`, after the images that are on their way
                return
            first = self.taken
            self.taken += len(batch.y)
            yield self._begin(batch, first)

    @torch.no_grad()
    def _begin(self, batch: Batch, first: int) -> list[Job]:
        """Starts of a batch whose first image is the `first` of all; those that cannot have one are refused."""
        jobs: list[Job] = []
        for rows in _alike(batch):
            for part, begun in in_parts(lambda part: self._start(batch, part, first), rows, self.start_rows):
                if isinstance(begun, Failure):
                    self.refused += [Restored(first + row, batch.ids[row], failed=begun.reason) for row in part]
                else:
                    jobs += begun
        self.on_plan(sum(job.k for job in jobs))
        return jobs

    def _start(self, batch: Batch, rows: list[int], first: int) -> list[Job]:
        given = batch.problem if len(rows) == len(batch.y) else batch.problem.take(torch.tensor(rows))
        began = time.perf_counter()
        problem = self.pipeline.check(given)
        solver, rule = self._method(batch, given.physics)
        solver.check(problem)
        if isinstance(problem.physics, BatchedPhysics):
            problem.measure(problem.image)  # what it computes from its parameters is computed here, for all steps
        shape = self.pipeline.prior.latent_shape((problem.image.shape[2], problem.image.shape[3]))
        generators = [image_generator(self.seed, batch.ids[row], "sampling") for row in rows]
        noise = torch.stack([torch.randn(shape, generator=own) for own in generators]).to(self.device)
        start = rule(problem, self.pipeline.prior, solver.grid, noise)
        positions = start.k.tolist()
        share = (time.perf_counter() - began) / len(rows)
        severities = start.severity.var.float().tolist() if start.severity else [None] * len(rows)
        operators = operators_of(problem.physics, len(rows))
        evaluations = [None] * len(rows) if start.nfe is None else start.nfe.tolist()
        jobs = []
        for n, row in enumerate(rows):
            job = Job(batch.ids[row], start.z[n], positions[n], problem, n, solver, generators[n])
            self.begun[job] = _Begun(first + row, rule, operators[n], severities[n], evaluations[n], share)
            jobs.append(job)
        return jobs

    def _method(self, batch: Batch, physics: Physics) -> tuple[Solver, StartRule]:
        settings = self.settings if batch.settings is None else batch.settings
        start = self.start if isinstance(self.start, str) else "flash"
        solver = self.solver if isinstance(self.solver, str) else "latent-dps"
        settings = self.pipeline.settings_for(physics, start, solver, settings)
        if settings not in self.made:
            self.made[settings] = self.pipeline.method(self.solver, self.start, settings)
        return self.made[settings]

    def _view(self, jobs: list[Job], z0: Tensor) -> None:
        """Show what the images of a step would be if they ended now."""
        if self.callback is not None:
            self.steps += 1
            with torch.no_grad():
                images = self.pipeline.prior.decode(z0).float().clamp(0, 1).cpu()
            self.callback(self.steps, images, [job.id for job in jobs])

    # -- images out -------------------------------------------------------------------------------------

    @torch.no_grad()
    def _decode(self, outcomes: list[Outcome]) -> Tensor:
        z = torch.stack([outcome.z for outcome in outcomes])
        if self.static:
            z = torch.cat([z, z[-1:].expand(power_of_two(len(z)) - len(z), *z.shape[1:])])
        images = self.pipeline.prior.decode(z)[: len(outcomes)].float().clamp(0, 1)
        return images.to("cpu", non_blocking=self.device.type == "cuda")

    def _decoded(self, finished: Sequence[Outcome]) -> Iterator[Restored]:
        """Decode them and start copying their images; yield those whose copies were started before."""
        shapes = {outcome.z.shape: None for outcome in finished if outcome.failed is None}
        for shape in shapes:
            alike = [outcome for outcome in finished if outcome.failed is None and outcome.z.shape == shape]
            began = time.perf_counter()
            for part, images in in_parts(self._decode, alike, self.decode_rows):
                if isinstance(images, Failure):
                    yield from (self._restored(outcome, None, 0.0, images.reason) for outcome in part)
                    continue
                event = torch.cuda.Event() if self.device.type == "cuda" else None
                if event is not None:
                    event.record(torch.cuda.current_stream(self.device))
                share = (time.perf_counter() - began) / len(alike)
                self.copying.append((part, images, event, share))
        yield from self._delivered(1 if self.device.type == "cuda" else 0)
        yield from (self._restored(one, None, 0.0, one.failed) for one in finished if one.failed is not None)

    def _delivered(self, left: int) -> Iterator[Restored]:
        """Images whose copies are done, but for the `left` copies started last."""
        while len(self.copying) > left:
            outcomes, images, event, share = self.copying.popleft()
            if event is not None:
                began = time.perf_counter()
                event.synchronize()
                share += (time.perf_counter() - began) / len(outcomes)  # what the device had not done yet
            for outcome, image in zip(outcomes, images, strict=True):
                diverged = not bool(image.isfinite().all())
                reason = "its restoration diverged; try a smaller guidance" if diverged else None
                yield self._restored(outcome, None if diverged else image.clone(), share, reason)

    def _restored(self, outcome: Outcome, image: Tensor | None, seconds: float, failed: str | None) -> Restored:
        begun = self.begun.pop(outcome.job)
        return Restored(
            begun.index,
            outcome.job.id,
            image,
            begun.severity,
            int(outcome.job.solver.grid.times[outcome.job.k]),
            outcome.nfe + (begun.nfe or 0),
            0.0 if failed else self.pipeline.costs.gflop(outcome, begun.rule, begun.operators, begun.nfe),
            outcome.seconds + begun.seconds + seconds,
            failed,
        )

    @staticmethod
    def _taken(refused: deque[Restored]) -> Iterator[Restored]:
        while refused:
            yield refused.popleft()


def _alike(batch: Batch) -> list[Sequence[int]]:
    """Rows whose settings are the same: those of each part of a mixture, else all."""
    if isinstance(batch.physics, Mixed):
        return [rows.tolist() for rows, _ in batch.physics.parts]
    return [range(len(batch.y))]


def regressed(pipeline: "FlashPipeline", batches: Iterable[Batch], max_in_flight: int | None) -> Iterator[Restored]:
    """The regressor's own output: no latents, no steps."""
    regressor = pipeline.regressor
    if regressor is None:
        raise InputError("this model has no regressor; train one with `flashdiffusion train regressor`")
    limit, first = Limit(max_in_flight or START_ROWS), 0
    gflop: dict[torch.Size, float] = {}

    @torch.no_grad()
    def call(batch: Batch, rows: list[int]) -> tuple[Tensor, float]:
        images = pipeline.check(batch.problem.take(torch.tensor(rows))).image
        size = images.shape[1:]
        if size not in gflop:
            gflop[size] = count_gflop(lambda: regressor(images[:1]))
        return regressor(images).float().clamp(0, 1).cpu(), gflop[size]

    for batch in prefetched(batches):
        began = time.perf_counter()
        for rows, result in in_parts(partial(call, batch), range(len(batch.y)), limit):
            share = (time.perf_counter() - began) / len(rows)
            for n, row in enumerate(rows):
                if isinstance(result, Failure):
                    yield Restored(first + row, batch.ids[row], failed=result.reason)
                else:
                    yield Restored(first + row, batch.ids[row], result[0][n], gflop=result[1], seconds=share)
            began = time.perf_counter()
        first += len(batch.y)
