"""The engine against one image at a time, throughput by images in flight and spread of starts, memory by the queue.

python benchmarks/engine.py --data DATA --out FILE [--images 64] [--device cuda]

compare   the same images, restored by a loop over them, one at a time, and by the engine, in turn in one run: with
          the networks as they are (--precision), and the loop in float32 as it is published
max_in_flight  images in flight
spread    starts drawn evenly around a mean, in a full queue: all equal, or from nearly 0 to twice the mean; against
          fixed batches, which wait for their longest image
queue     peak memory with more and more images queued; a solver of trivial steps stands in for the networks
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashdiffusion import FlashPipeline, Settings
from flashdiffusion.data import ImageDataset, write_json
from flashdiffusion.engine.capacity import WORKING
from flashdiffusion.engine.memory import KeptMemory
from flashdiffusion.engine.stream import Stream, StreamOptions
from flashdiffusion.jobs.records import environment
from flashdiffusion.physics import get_task
from flashdiffusion.physics.tasks import Measurements, measure
from flashdiffusion.pipeline import Batch, Restored
from flashdiffusion.presets import preset_for
from flashdiffusion.priors import LatentPrior
from flashdiffusion.schedule import Grid
from flashdiffusion.seeds import image_generator
from flashdiffusion.solvers import Problem, Start, StartRule, StepResult
from measure import drawn
from memory import Peak

TASK = "gaussian-blur"
QUEUE = 64  # measurements to a batch
MODES = ("compare", "max_in_flight", "spread", "queue")


@dataclass(frozen=True)
class Inputs:
    """What is restored, by what."""

    pipeline: FlashPipeline
    ids: list[str]
    measured: Measurements
    settings: Settings
    seed: int

    def batches(self, count: int | None = None) -> Iterator[Batch]:
        for first in range(0, count or len(self.ids), QUEUE):
            rows = torch.arange(first, min(first + QUEUE, count or len(self.ids)))
            ids = [self.ids[int(row)] for row in rows]
            yield Batch(ids, self.measured.y[rows], self.measured.physics.take(rows), self.settings)


@dataclass
class Run:
    """What one pass over the images took."""

    count: int
    seconds: float
    peak_mib: float
    images: Tensor
    steps: int
    occupancy: float | None = None

    def row(self) -> dict[str, Any]:
        return {
            "images": self.count,
            "image_steps": self.steps,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.count / self.seconds, 4),
            "steps_per_second": round(self.steps / self.seconds, 2),
            "occupancy": None if self.occupancy is None else round(self.occupancy, 4),
            "peak_mib": round(self.peak_mib),
        }


def sequential(inputs: Inputs, rule: StartRule | None = None) -> Run:
    """The published way: an image is encoded, walked through its steps and decoded before the next one begins."""
    pipeline, prior = inputs.pipeline, inputs.pipeline.prior
    solver, own = pipeline.method("latent-dps", rule or "flash", inputs.settings)
    images, steps = [], 0
    with Peak(prior.device) as peak, torch.no_grad():
        began = time.perf_counter()
        for n, name in enumerate(inputs.ids):
            row = torch.tensor([n])
            y, physics = inputs.measured.y[row], inputs.measured.physics.take(row)
            problem = Problem(y, physics).to(prior.device)
            seen = problem.image
            generator = image_generator(inputs.seed, name, "sampling")
            shape = prior.latent_shape((seen.shape[2], seen.shape[3]))
            noise = torch.randn(shape, generator=generator)[None].to(prior.device)
            start = own(problem, prior, solver.grid, noise)
            z, left = start.z, int(start.k[0])
            steps += left
            for k in range(left, 0, -1):
                noise = torch.randn((1, 1, *shape), generator=generator).to(z)
                z = solver.step(z, torch.tensor([k]), problem, noise).z
            images.append(prior.decode(z).float().clamp(0, 1).cpu())
        seconds = time.perf_counter() - began
    return Run(len(inputs.ids), seconds, peak.mib, torch.cat(images), steps)


def engine(inputs: Inputs, max_in_flight: int | None, rule: StartRule | None = None) -> Run:
    """The same by `FlashPipeline.stream`."""
    moved: list[int] = []
    with Peak(inputs.pipeline.prior.device) as peak:
        began = time.perf_counter()
        options = StreamOptions("latent-dps", rule or "flash", inputs.seed, None, max_in_flight, on_step=moved.append)
        restored = sorted(Stream(inputs.pipeline, options).run(inputs.batches()), key=lambda one: one.index)
        seconds = time.perf_counter() - began
    images = torch.stack([_image(one) for one in restored])
    return Run(len(restored), seconds, peak.mib, images, sum(moved), sum(moved) / (len(moved) * max(moved)))


def fixed_batches(inputs: Inputs, max_in_flight: int, rule: StartRule) -> Run:
    """Batches without refill: the next begins when the longest image of this one is done."""
    images, steps, calls = [], 0, 0
    with Peak(inputs.pipeline.prior.device) as peak:
        began = time.perf_counter()
        for first in range(0, len(inputs.ids), max_in_flight):
            rows = torch.arange(first, min(first + max_in_flight, len(inputs.ids)))
            batch = Batch(
                [inputs.ids[int(row)] for row in rows],
                inputs.measured.y[rows],
                inputs.measured.physics.take(rows),
                inputs.settings,
            )
            moved: list[int] = []
            options = StreamOptions("latent-dps", rule, inputs.seed, None, max_in_flight, on_step=moved.append)
            restored = Stream(inputs.pipeline, options).run([batch])
            images += [_image(one) for one in sorted(restored, key=lambda one: one.index)]
            steps, calls = steps + sum(moved), calls + len(moved)
        seconds = time.perf_counter() - began
    return Run(len(images), seconds, peak.mib, torch.stack(images), steps, steps / (calls * max_in_flight))


def _image(one: Restored) -> Tensor:
    if one.image is None:
        raise SystemExit(f"{one.id}: {one.failed}")
    return one.image


@dataclass(frozen=True)
class Drawn:
    """The measurement itself, noised to a k within `spread` (0 to 1) of `mean`."""

    mean: float
    spread: float

    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        k = drawn(noise, self.mean * (1 - self.spread), self.mean * (1 + self.spread)).clamp(max=len(grid))
        abar = grid.abar[k].to(noise).view(-1, 1, 1, 1)
        return Start(abar.sqrt() * prior.encode(problem.image.clamp(0, 1)) + (1 - abar).sqrt() * noise, k)


class Trivial:
    """A stand-in for the networks: steps that cost nothing."""

    name, draws = "trivial", 1

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def check(self, problem: Problem) -> None:
        pass

    def cost(self, k: Tensor) -> Tensor:
        return torch.ones(len(k))

    def step(self, z: Tensor, k: Tensor, problem: Problem, noise: Tensor) -> StepResult:
        return StepResult(z + 0.01 * noise[:, 0], z)


def compare(inputs: Inputs, options: argparse.Namespace) -> dict[str, Any]:
    """Loop and engine in turn, `--rounds` times; and the loop in float32."""
    runs: dict[str, list[Run]] = {"one at a time": [], "engine": []}
    for _ in range(options.rounds):
        runs["one at a time"].append(sequential(inputs))
        runs["engine"].append(engine(inputs, options.max_in_flight))
    difference = (runs["engine"][0].images - runs["one at a time"][0].images).abs()
    result: dict[str, Any] = {name: [run.row() for run in own] for name, own in runs.items()}
    pairs = zip(runs["one at a time"], runs["engine"], strict=True)
    result["speedup"] = round(statistics.median(a.seconds / b.seconds for a, b in pairs), 3)
    result["difference"] = {"mean": float(difference.mean()), "max": float(difference.max())}
    if options.precision != "float32":
        single = inputs.pipeline.to(dtype=torch.float32)
        published = sequential(Inputs(single, inputs.ids, inputs.measured, inputs.settings, inputs.seed))
        inputs.pipeline.to(dtype=getattr(torch, options.precision))
        last = runs["engine"][-1]
        rmse = (last.images - published.images).square().mean().sqrt()
        result["one at a time, float32"] = published.row()
        result["speedup over float32"] = round(published.seconds / last.seconds, 3)
        result["rmse to float32"] = float(rmse)
    return result


def estimate(inputs: Inputs) -> float:
    """MiB that the engine takes an image in flight to need."""
    prior = inputs.pipeline.prior
    solver, _ = inputs.pipeline.method("latent-dps", "noise", inputs.settings)
    one = next(inputs.batches())
    problem = Problem(one.y[:1], inputs.measured.physics.take(torch.tensor([0]))).to(prior.device)
    z = torch.zeros(1, *prior.latent_shape((one.y.shape[2], one.y.shape[3])), device=prior.device)
    with KeptMemory() as kept:
        solver.step(z, torch.ones(1, dtype=torch.int64), problem, torch.zeros_like(z)[:, None])  # the last is guided
    return WORKING * kept.bytes / 2**20


def capacities(inputs: Inputs, options: argparse.Namespace) -> list[dict[str, Any]]:
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size <= min(options.largest, len(inputs.ids))]
    each = estimate(inputs)
    return [
        {
            "max_in_flight": size,
            **engine(inputs, size, Drawn(options.mean, 0.5)).row(),
            "estimated_mib": round(size * each),
        }
        for size in sizes
    ]


def spreads(inputs: Inputs, options: argparse.Namespace) -> list[dict[str, Any]]:
    max_in_flight = options.max_in_flight or 16
    rows = []
    for spread in (0.0, 0.5, 0.9):
        rule = Drawn(options.mean, spread)
        fixed, continuous = fixed_batches(inputs, max_in_flight, rule), engine(inputs, max_in_flight, rule)
        ratio = round(fixed.seconds / continuous.seconds, 3)
        rows.append({"spread": spread, "fixed batches": fixed.row(), "engine": continuous.row(), "speedup": ratio})
    return rows


def queue(inputs: Inputs, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory with batches made as they are asked for."""
    pipeline = inputs.pipeline
    solver = Trivial(pipeline.prior.schedule.grid())
    rows = []
    for count in (QUEUE, *options.queued):  # the first warms up

        def batches(count: int = count) -> Iterator[Batch]:
            for first in range(0, count, QUEUE):
                one = next(inputs.batches())
                yield Batch([f"{first}-{n}" for n in range(len(one.y))], one.y.clone(), one.physics)

        with Peak(pipeline.prior.device) as peak:
            began = time.perf_counter()
            rule = Drawn(8, 0.9)
            done = sum(1 for _ in pipeline.stream(batches(), solver=solver, start=rule, max_in_flight=16))
            seconds = time.perf_counter() - began
        rows.append({"queued": count, "done": done, "seconds": round(seconds, 2), "peak_mib": round(peak.mib)})
    return rows[1:]


def make_inputs(options: argparse.Namespace) -> Inputs:
    pipeline = FlashPipeline.from_pretrained(options.model).to(options.device, getattr(torch, options.precision))
    if options.compile:
        pipeline.compile(options.compile)
    if pipeline.sample_size is None:
        raise SystemExit("the model does not say its image size")
    data = ImageDataset([options.data], pipeline.sample_size, options.images)
    repeated = [n % len(data) for n in range(options.images)]
    ids = [f"{n}-{data.ids[i]}" for n, i in enumerate(repeated)]
    measured = measure(data.batch(repeated), ids, get_task(TASK), 0.05, options.seed)
    settings = preset_for(FlashPipeline.presets_of(), TASK, "flash", "latent-dps")
    if options.guidance is not None:
        settings = settings | {"guidance": options.guidance}
    return Inputs(pipeline, ids, measured, settings, options.seed)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images or .tar shard; repeated if it has too few")
    parser.add_argument("--out", type=Path, required=True, help="results file (JSON)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-in-flight", type=int, help="default: chosen by the engine")
    parser.add_argument("--largest", type=int, default=32, help="largest of the capacities")
    parser.add_argument("--queued", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--mean", type=float, default=20, help="mean of drawn starts")
    parser.add_argument("--guidance", type=float, help="step size; default: the preset's")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", help="mode of torch.compile, e.g. reduce-overhead")
    parser.add_argument("--model", help="default: the embedded one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    inputs = make_inputs(options)
    engine(Inputs(inputs.pipeline, inputs.ids[:2], inputs.measured, inputs.settings, 0), 2, Drawn(2, 0))  # warm-up
    result: dict[str, Any] = {
        "command": ["python", "benchmarks/engine.py", *sys.argv[1:]],
        "date": date.today().isoformat(),
        "environment": environment(inputs.pipeline.prior.device),
        "model": options.model or "embedded",
        "precision": options.precision,
        "compile": options.compile,
        "seed": options.seed,
    }
    measures = {"compare": compare, "max_in_flight": capacities, "spread": spreads, "queue": queue}
    for mode in options.modes:
        result[mode] = measures[mode](inputs, options)
        write_json(options.out, result)
        show(mode, result[mode])


def show(mode: str, value: Any, indent: str = "") -> None:
    """Nested figures as indented lines."""
    if isinstance(value, list) or not isinstance(value, dict):
        print(f"{indent}{mode}:" if isinstance(value, list) else f"{indent}{mode}: {value}", flush=True)
        for row in value if isinstance(value, list) else []:
            flat = {key: cell for key, cell in row.items() if not isinstance(cell, dict)}
            print(f"{indent}  " + ", ".join(f"{key} {cell}" for key, cell in flat.items()), flush=True)
            for key in row.keys() - flat.keys():
                show(key, row[key], indent + "    ")
        return
    print(f"{indent}{mode}:", flush=True)
    for key, cell in value.items():
        show(key, cell, indent + "  ")


if __name__ == "__main__":
    main()
