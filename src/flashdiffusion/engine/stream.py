"""From batches of measurements to restored images, as they finish."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flashdiffusion.data import prefetched
from flashdiffusion.engine.batch import Batch, Failed, Restored
from flashdiffusion.engine.capacity import Capacity, Failure, Limit, in_parts
from flashdiffusion.engine.cost import Costs, operators_of
from flashdiffusion.engine.decoding import Decoding
from flashdiffusion.engine.noise import ImageNoise, NoiseSource
from flashdiffusion.engine.slots import InFlight, Slots
from flashdiffusion.methods import Settings
from flashdiffusion.metrics import count_gflop
from flashdiffusion.metrics.flops import FlopCounter
from flashdiffusion.model import Model
from flashdiffusion.physics import BatchedPhysics, Mixed
from flashdiffusion.seeds import image_generator
from flashdiffusion.solvers import Problem, Solver, Start, StartRule
from flashdiffusion.types import Physics

START_ROWS = 64  # measurements that are given their start together


@dataclass(frozen=True)
class StreamOptions:
    """What a stream is to do; see `FlashPipeline.stream`.

    solver, start: names, or objects; without a solver, `Model.solver_for` chooses one by each batch's settings.
    on_plan: called with the number of steps that are to come. on_step: with the number of images that each step moved.
    callback: with a step's number, what its images would be if they ended now, and their ids.

    Raises:
        InputError: max_in_flight < 1.
    """

    solver: str | Solver | None
    start: str | StartRule
    seed: int = 0
    settings: Settings | None = None
    max_in_flight: int | None = None
    on_plan: Callable[[int], None] = lambda steps: None
    on_step: Callable[[int], None] = lambda images: None
    callback: Callable[[int, Tensor, list[str]], None] | None = None

    def __post_init__(self) -> None:
        Capacity(self.max_in_flight)


class Stream:
    """One run of a model over batches."""

    def __init__(self, model: Model, options: StreamOptions) -> None:
        self.model, self.options = model, options
        self.capacity, self.start_limit = Capacity(options.max_in_flight), Limit(options.max_in_flight or START_ROWS)
        self.costs = Costs()
        self.decoding = Decoding(model.prior, self.costs, model.compiled)
        # Equal settings share a solver, and so its steps.
        self.made: dict[tuple[str, Settings, bool], tuple[Solver, StartRule]] = {}
        self.taken = self.steps = 0  # images in; steps shown to a callback
        self.broken: Exception | None = None  # what ended the source of batches
        self.failed: deque[Restored] = deque()  # those that got no start

    def run(self, batches: Iterable[Batch | Failed]) -> Iterator[Restored]:
        """Restore; each image is yielded once, in the order in which they finish.

        An error of the source of batches is raised once all that came before it has been given.

        Raises:
            RuntimeError: an image has neither a result nor a failure, which would be a fault of this library.
        """
        given = 0
        for one in self._run(batches):
            given += 1
            yield one
        if self.broken is not None:
            raise self.broken
        if given != self.taken:
            raise RuntimeError(f"{self.taken} images went in and {given} came out; please report this fault")

    def _run(self, batches: Iterable[Batch | Failed]) -> Iterator[Restored]:
        view = None if self.options.callback is None else self._view
        slots = Slots(self.capacity, self.options.on_step, self.model.compiled, view, self.costs)
        done: list[InFlight] = []
        for one in slots.run(prefetched(self._started(batches))):
            done.append(one)
            if len(done) * 4 >= self.capacity.rows:  # decoding one at a time would leave a GPU idle
                yield from self.decoding.decode(done)
                done = []
            yield from self._without_start()
        yield from self.decoding.decode(done)
        yield from self.decoding.rest()
        yield from self._without_start()

    # -- starts, made one batch ahead in a thread of their own --------------------------------------------

    def _started(self, batches: Iterable[Batch | Failed]) -> Iterator[list[InFlight]]:
        try:
            for batch in batches:
                first = self.taken
                if isinstance(batch, Failed):
                    self.taken += 1
                    self.failed.append(Restored(first, batch.id, failed=batch.reason, extra=batch.extra))
                    continue
                started = self._start(batch, first)
                self.taken += len(batch.y) * batch.samples
                yield started
        except Exception as error:  # of the source or a start rule: `run` raises it, after the images on their way
            self.broken = error

    @torch.no_grad()
    def _start(self, batch: Batch, first: int) -> list[InFlight]:
        """Starts of a batch whose first image is the `first` of all; those that cannot have one are failed."""
        started: list[InFlight] = []
        for rows in _alike(batch):
            for part, begun in in_parts(lambda part: self._start_rows(batch, part, first), rows, self.start_limit):
                if isinstance(begun, Failure):
                    rest = [(row, sample) for sample in range(batch.samples) for row in part]
                    self.failed += [_result(batch, row, first, sample, begun.reason) for row, sample in rest]
                else:
                    started += begun
        self.options.on_plan(sum(one.k for one in started))
        return started

    def _start_rows(self, batch: Batch, rows: list[int], first: int) -> list[InFlight]:
        """All samples of some rows."""
        began = time.perf_counter()
        whole = batch.problem
        problem = self.model.check(whole if rows == [*range(len(whole))] else whole.take(torch.tensor(rows)))
        holed = [False] * len(rows) if problem.holes is None else problem.holes.flatten(1).any(dim=1).tolist()
        if len({*holed}) == 2:
            groups = [[row for row, one in zip(rows, holed, strict=True) if one == kind] for kind in (False, True)]
            return [one for part in groups for one in self._start_rows(batch, part, first)]
        solver, rule = self._method(batch, problem.physics, holed[0])
        solver.check(problem)
        if isinstance(problem.physics, BatchedPhysics):
            problem.measure(problem.image)  # what it computes from its parameters is computed here, for all steps
        operators = operators_of(problem.physics, len(rows))
        started = []
        for sample in range(batch.samples):
            results = [_result(batch, row, first, sample) for row in rows]
            sources = [ImageNoise(image_generator(self.options.seed, result.id, "sampling")) for result in results]
            start, gflop = self._by_rule(problem, solver, rule, sources, operators[0])
            k, seconds = start.k.tolist(), (time.perf_counter() - began) / len(rows)
            times = solver.grid.times[start.k.clamp(0, len(solver.grid)).cpu()].tolist()  # `InFlight` checks k
            severities, maps = _known(start, problem)
            nfe = [0] * len(rows) if start.nfe is None else start.nfe.tolist()
            corrected = [False] * len(rows) if start.mismatch is None else start.mismatch.any(dim=1).tolist()
            estimated = problem
            if start.severity is not None:
                estimate, variance = start.severity.z_hat, start.severity.map
                estimated = replace(problem, estimate=estimate, variance=variance)
            believed = replace(estimated, excess=start.excess)
            doubted = replace(believed, mismatch=start.mismatch)
            for n, result in enumerate(results):
                result.severity, result.start_step, result.nfe = severities[n], times[n], nfe[n]
                result.gflop, result.seconds, result.severity_map = gflop[n], seconds, maps[n]
                result.physics_corrected = corrected[n]
                own, operator = doubted if corrected[n] else believed, (operators[n], corrected[n])
                one = InFlight(result, start.z[n], k[n], own, n, solver, sources[n], operator)
                one.image = start.image[n] if start.image is not None and k[n] == 0 else None
                started.append(one)
            began = time.perf_counter()
        return started

    def _by_rule(
        self, problem: Problem, solver: Solver, rule: StartRule, sources: Sequence[NoiseSource], operators: object
    ) -> tuple[Start, list[float]]:
        """Starts, and the GFLOP of each."""
        prior = self.model.prior
        shape = prior.latent_shape((problem.image.shape[2], problem.image.shape[3]))
        noise = torch.stack([source(shape) for source in sources]).to(prior.device)
        common = id(rule), operators, problem.y.shape[1:], shape
        # The first call is counted itself, if its images cost the same; else one of each kind is called again alone.
        counter = None if self.costs.known((*common, 0)) else FlopCounter()
        with counter or nullcontext():
            start = rule(problem, prior, solver.grid, noise)
        work = [0] * len(problem) if start.work is None else start.work.tolist()
        kinds = [(*common, one) for one in work]
        nfe = [0] * len(problem) if start.nfe is None else start.nfe.tolist()
        alike = len(set(zip(work, nfe, strict=True))) == 1

        def alone(row: int) -> float:
            if counter is not None and alike:
                return counter.gflop / len(work)
            rows = torch.tensor([row])
            return count_gflop(lambda: rule(problem.take(rows), prior, solver.grid, noise[rows]))

        i = torch.ones(1, dtype=torch.int64, device=prior.device)
        return start, self.costs.of_each(kinds, alone, nfe, lambda: count_gflop(lambda: prior.denoise(noise[:1], i)))

    def _method(self, batch: Batch, physics: Physics, holes: bool) -> tuple[Solver, StartRule]:
        start, given = self.options.start, self.options.settings if batch.settings is None else batch.settings
        solver = self.options.solver or self.model.solver_for(start, given or ())
        settings = self.model.settings_for(
            physics,
            start if isinstance(start, str) else "flash",
            solver if isinstance(solver, str) else "latent-dps",
            given,
        )
        if (key := (solver if isinstance(solver, str) else "", settings, holes)) not in self.made:
            self.made[key] = self.model.method(solver, start, settings, holes)
        return self.made[key]

    def _view(self, rows: list[InFlight], z0: Tensor) -> None:
        """Show what the images of a step would be if they ended now."""
        assert self.options.callback is not None
        self.steps += 1
        with torch.no_grad():
            images = rows[0].problem.cropped(self.model.prior.decode(z0)).float().clamp(0, 1).cpu()
        self.options.callback(self.steps, images, [one.result.id for one in rows])

    def _without_start(self) -> Iterator[Restored]:
        while self.failed:
            yield self.failed.popleft()


def _known(start: Start, problem: Problem) -> tuple[list[float | None], list[Tensor | None]]:
    """Severities of a start, and their maps (h, w) on the CPU, without what is padding alone."""
    if start.severity is None:
        return [None] * len(problem), [None] * len(problem)
    maps = start.severity.map[:, 0]
    if problem.padding is not None:
        maps = problem.padding.crop_map(maps)
    return start.severity.var.float().tolist(), [*maps.float().cpu().clone()]


def _alike(batch: Batch) -> list[Sequence[int]]:
    """Rows whose settings are the same: those of each part of a mixture, else all."""
    if isinstance(batch.physics, Mixed) and len(batch.physics.parts) > 1:
        return [rows.tolist() for rows, _ in batch.physics.parts]
    return [range(len(batch.y))]


def _result(batch: Batch, row: int, first: int, sample: int, failed: str | None = None) -> Restored:
    """What is known of a sample of an image before it starts; the first sample has the image's own name."""
    name = batch.ids[row] if sample == 0 else f"{batch.ids[row]}#{sample}"
    extra = None if batch.extra is None else batch.extra[row]
    return Restored(first + sample * len(batch.y) + row, name, failed=failed, extra=extra)
