"""Starts of images: measured by the severity encoder, and put in line for their steps."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from flashdiffusion.engine.batch import Batch, Restored
from flashdiffusion.engine.capacity import Failure, Limit, in_parts
from flashdiffusion.engine.cost import Costs, operators_of
from flashdiffusion.engine.gathering import RestoredTile, TileBatch, tiles_of
from flashdiffusion.engine.noise import ImageNoise, NoiseSource, TileNoise
from flashdiffusion.engine.options import StreamOptions
from flashdiffusion.engine.slots import InFlight
from flashdiffusion.engine.tiling import Tiling, tiling_of
from flashdiffusion.errors import FlashDiffusionError
from flashdiffusion.methods import Settings, parse_method
from flashdiffusion.metrics import count_gflop
from flashdiffusion.metrics.flops import FlopCounter
from flashdiffusion.model import Model
from flashdiffusion.physics import BatchedPhysics, Mixed
from flashdiffusion.seeds import image_generator
from flashdiffusion.solvers import Problem, Solver, Start, StartRule
from flashdiffusion.solvers.rows import Unknown
from flashdiffusion.types import Physics

START_ROWS = 64  # measurements that are given their start together


@dataclass
class Cuts:
    """What becomes of the rows of a batch.

    rows: those that are restored whole. tilings: of the others, by row. refused: results of those that cannot be cut.
    whole: why an image that is large is restored whole all the same, by its place among all.
    """

    rows: list[int] = field(default_factory=list)
    tilings: dict[int, Tiling] = field(default_factory=dict)
    refused: list[Restored] = field(default_factory=list)
    whole: dict[int, str] = field(default_factory=dict)


class Starting:
    """Gives measurements their starts."""

    def __init__(self, model: Model, options: StreamOptions, costs: Costs) -> None:
        self.model, self.options, self.costs = model, options, costs
        # That of a model that takes no picture in tiles by itself is asked for nothing.
        self.tile = 0 if options.tile is None and model.attends else options.tile
        self.limit = Limit(options.max_in_flight or START_ROWS)
        # Equal settings share a solver, and so its steps.
        self.made: dict[tuple[str, str, Settings], tuple[Solver, StartRule]] = {}

    @torch.no_grad()
    def __call__(
        self, batch: Batch, first: int, only: Sequence[int] | None = None
    ) -> tuple[list[InFlight], list[Restored]]:
        """Give starts of a batch whose first image is the `first` of all, and the results of those that have none.

        Args:
            only: rows of the batch; None for all.
        """
        started: list[InFlight] = []
        failed: list[Restored] = []
        wanted = []
        for row in range(len(batch.y)) if only is None else only:
            if (cancellation := batch.cancellation(row)) is None or cancellation.reason is None:
                wanted.append(row)
            else:
                failed += [batch.result(row, first, sample, cancellation.reason) for sample in range(batch.samples)]
        for rows in _alike(batch, wanted):
            for part, begun in in_parts(lambda part: self._start_rows(batch, part, first), rows, self.limit):
                if isinstance(begun, Failure):
                    rest = [(row, sample) for sample in range(batch.samples) for row in part]
                    failed += [batch.result(row, first, sample, begun.reason) for row, sample in rest]
                else:
                    started += begun
        return started, failed

    def cuts(self, batch: Batch, first: int) -> "Cuts":
        """Say which rows of a batch are restored in tiles."""
        found = Cuts()
        for row in range(len(batch.y)):
            try:
                tiling = self._tiling(batch, row, first, found)
            except FlashDiffusionError as error:
                found.refused += [batch.result(row, first, sample, str(error)) for sample in range(batch.samples)]
                continue
            if tiling is None:
                found.rows.append(row)
            else:
                found.tilings[row] = tiling
        return found

    def _tiling(self, batch: Batch, row: int, first: int, found: "Cuts") -> Tiling | None:
        """How a row is cut; None if it is not."""
        if self.tile == 0:
            return None
        physics = batch.physics
        if isinstance(physics, BatchedPhysics) and len(physics) > 1:
            physics = physics.take(torch.tensor([row]))
        tiling = tiling_of(batch.y[row : row + 1], physics, self.model, self.tile)
        if isinstance(tiling, str):
            found.whole |= {batch.result(row, first, n).index: tiling for n in range(batch.samples)}
            return None
        return tiling

    def tiles(self, batch: Batch, first: int, cuts: "Cuts") -> Iterator[TileBatch | list[RestoredTile]]:
        """Cut the rows that are restored in tiles, as these are asked for; those that are done already as they are."""
        for row, tiling in cuts.tilings.items():
            yield from tiles_of(batch, row, first, tiling, self.model.prior.autoencoder.factor)

    def _start_rows(self, batch: Batch, rows: list[int], first: int) -> list[InFlight]:
        """All samples of some rows."""
        began = time.perf_counter()
        whole = batch.problem
        problem = self.model.check(whole if rows == [*range(len(whole))] else whole.take(torch.tensor(rows)))
        solver, rule = self._method(batch, problem.physics)
        solver.check(problem)
        if isinstance(problem.physics, BatchedPhysics):
            problem.measure(problem.image)  # what it computes from its parameters is computed here, for all steps
        operators = operators_of(problem.physics, len(rows))
        started = []
        for sample in range(batch.samples):
            results = [batch.result(row, first, sample) for row in rows]
            sources = [self._noise(batch, row, result.id) for row, result in zip(rows, results, strict=True)]
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
                cancellation = batch.cancellation(rows[n])
                one = InFlight(
                    *(result, start.z[n], k[n], own, n, solver, sources[n], operator), cancellation=cancellation
                )
                one.image = start.image[n] if start.image is not None and k[n] == 0 else None
                started.append(one)
            began = time.perf_counter()
        return started

    def _noise(self, batch: Batch, row: int, name: str) -> NoiseSource:
        seed = self.options.seed if batch.seed is None else batch.seed
        if isinstance(batch, TileBatch):
            return TileNoise(seed, name, batch.latent_window(row))
        return ImageNoise(image_generator(seed, name, "sampling"))

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

    def _method(self, batch: Batch, physics: Physics) -> tuple[Solver, StartRule]:
        given = self.options.settings if batch.settings is None else batch.settings
        start, solver = self.options.start, self.options.solver
        if batch.method is not None:
            start, solver = parse_method(batch.method)
        solver = solver or self.model.solver_for(start, given or ())
        settings = self.model.settings_for(
            physics,
            start if isinstance(start, str) else "flash",
            solver if isinstance(solver, str) else "latent-dps",
            given,
        )
        if isinstance(physics, Unknown):  # an estimate can be consistent with y of a known one alone
            settings = settings | Settings(refine=False)
        key = (start if isinstance(start, str) else "", solver if isinstance(solver, str) else "", settings)
        if key not in self.made:
            self.made[key] = self.model.method(solver, start, settings)
        return self.made[key]


def _known(start: Start, problem: Problem) -> tuple[list[float | None], list[Tensor | None]]:
    """Severities of a start, and their maps (h, w) on the CPU, without what is padding alone."""
    if start.severity is None:
        return [None] * len(problem), [None] * len(problem)
    maps = start.severity.map[:, 0]
    if problem.padding is not None:
        maps = problem.padding.crop_map(maps)
    return start.severity.var.float().tolist(), [*maps.float().cpu().clone()]


def _alike(batch: Batch, only: Sequence[int] | None) -> list[Sequence[int]]:
    """Rows whose settings are the same: those of each part of a mixture, else all."""
    parts: list[Sequence[int]] = [range(len(batch.y))]
    if isinstance(batch.physics, Mixed) and len(batch.physics.parts) > 1:
        parts = [rows.tolist() for rows, _ in batch.physics.parts]
    if only is None or len(only) == len(batch.y):
        return parts
    chosen = {*only}
    return [own for rows in parts if (own := [row for row in rows if row in chosen])]
