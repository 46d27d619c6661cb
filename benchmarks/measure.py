"""What step.py and full_size.py share: the machine's ceiling, and a step of Latent-DPS in its parts."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from flashdiffusion import GaussianBlur
from flashdiffusion.data import write_json
from flashdiffusion.engine.batch import Restored
from flashdiffusion.engine.noise import ImageNoise
from flashdiffusion.engine.slots import InFlight, Slots
from flashdiffusion.jobs.records import environment
from flashdiffusion.solvers import LatentDPS, Problem, Solver

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MATMUL_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
AT = 20  # grid position of the measured step; all but the last cost the same

# torch's counter knows the attention kernels of GPUs, not this one.
_aten = torch.ops.aten
_CPU_ATTENTION: dict[Any, Any] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


def drawn(noise: Tensor, least: float, most: float) -> Tensor:
    """Starts spread evenly over `least` to `most`, int64 (B,): of an image's own noise, so of the seed and its id."""
    even = torch.special.ndtr(noise[:, 0, 0, 0].cpu())
    return (least + (most - least) * even).round().long().clamp(min=1)


# -- the machine --------------------------------------------------------------------------------------------


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ceiling(device: torch.device, dtype: torch.dtype, sizes: Sequence[int] = (), tries: int = 5) -> dict[str, float]:
    """GFLOP/s of square matrix products, the best of several sizes; float32 with TF32 where convolutions use it.

    On a CPU also of one product per core side by side: where other processes hold cores, those wait less.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        torch.set_float32_matmul_precision("high")
    cores = torch.get_num_threads() if device.type == "cpu" else 1
    rates = {}
    for size in sizes or MATMUL_SIZES[device.type]:
        pairs = [[torch.randn(size, size, device=device).to(dtype) for _ in range(2)] for _ in range(cores)]
        gflop, alone = 2e-9 * size**3, partial(torch.matmul, *pairs[0])
        rates[f"{size}"] = gflop / min(_seconds(device, alone) for _ in range(tries + 1))
        if cores > 1:
            with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                together = partial(_together, pool, pairs)
                rates[f"{cores} of {size}"] = cores * gflop / min(_seconds(device, together) for _ in range(tries + 1))
            torch.set_num_threads(cores)  # MKL's setting is not per thread
    torch.set_float32_matmul_precision(before)
    return rates


def best_of(*ceilings: dict[str, float]) -> dict[str, float]:
    """Of ceilings measured at different moments, each at its best: what other processes took away is no limit."""
    return {name: max(rates[name] for rates in ceilings) for name in ceilings[0]}


def _together(pool: ThreadPoolExecutor, pairs: list[list[Tensor]]) -> None:
    for product in [pool.submit(torch.matmul, *pair) for pair in pairs]:
        product.result()


def _seconds(device: torch.device, call: Callable[[], object]) -> float:
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began


def problem_of(count: int, side: int, device: torch.device, seed: int) -> Problem:
    """Blurred random images; what they show does not matter for what a step costs."""
    generator = torch.Generator().manual_seed(seed)
    physics = GaussianBlur(torch.linspace(0.5, 3, count), noise_std=0.05)
    return Problem(physics(torch.rand(count, 3, side, side, generator=generator), generator), physics).to(device)


# -- a step -------------------------------------------------------------------------------------------------


def step_in_parts(
    solver: LatentDPS, z: Tensor, k: Tensor, problem: Problem, generators: list[torch.Generator], mark: Callable
) -> Tensor:
    """`solver.step` cut at its networks' boundaries, noise as the engine draws it; `mark(name)` follows each part."""
    z = z.detach().requires_grad_()
    # Views, since torch's FlopCounterMode cannot hook leaves.
    z0 = solver.prior.denoise(z.view_as(z), solver.grid.times[k].to(z.device, non_blocking=True))
    mark("denoiser forward")
    inner = z0.detach().requires_grad_()
    x = solver.prior.decode(inner.view_as(inner))
    mark("decoder forward")
    outer = x.detach().requires_grad_()
    total = torch.stack([term(inner, outer, problem) for term in solver.terms]).sum()
    (at_x,) = torch.autograd.grad(total, outer)
    mark("physics and loss")
    (at_z0,) = torch.autograd.grad(x, inner, at_x)
    mark("decoder backward")
    (descent,) = torch.autograd.grad(z0, z, at_z0)
    mark("denoiser backward")
    noise = torch.stack([torch.randn(z.shape[1:], generator=own) for own in generators])
    moved = solver.transition(z.detach(), z0.detach(), k, noise.to(z)) - descent
    mark("noise and transition")
    return moved


def measure_step(
    solver: LatentDPS, problem: Problem, shape: tuple[int, int, int], repeats: int, seed: int
) -> dict[str, Any]:
    """Seconds and GFLOP of each part, of `solver.step` and of a step in the engine, for the images of `problem`.

    Args:
        shape: (c, h, w) of the latents.
        repeats: times are medians of so many, after one that is not counted.
    """
    device, batch = problem.y.device, len(problem)
    generators = [torch.Generator().manual_seed(seed + row) for row in range(batch)]
    z = torch.stack([torch.randn(shape, generator=own) for own in generators]).to(device)
    k = torch.full((batch,), AT)
    noise = torch.randn(z[:, None].shape, generator=generators[0]).to(device)

    def parts(mark: Callable[[str], None]) -> object:
        return step_in_parts(solver, z, k, problem, generators, mark)

    gflop = _count(parts)
    laps: list[dict[str, float]] = []
    for _ in range(repeats + 1):  # in turn, so that a drift of the machine's speed hits all alike
        lap = _lap(device, parts)
        lap["solver.step"] = _seconds(device, lambda: solver.step(z, k, problem, noise))
        lap["engine step"] = _engine_step(solver, problem, z)
        laps.append(lap)
    seconds = {name: statistics.median(lap[name] for lap in laps[1:]) for name in laps[0]}
    step, engine = seconds.pop("solver.step"), seconds.pop("engine step")
    total, work = sum(seconds.values()), sum(gflop.values())
    return {
        "batch": batch,
        "parts": {n: {"seconds": own, "share": own / total, "gflop": gflop[n]} for n, own in seconds.items()},
        "sums": {
            "sum of parts": {"seconds": total, "gflop": work},
            "solver.step": {"seconds": step, "gflop": work},
            "engine step": {"seconds": engine, "gflop": work},
        },
        "parts_over_step": total / step,
        "engine_over_step": engine / step,
        "laps": laps,
    }


def with_mfu(result: dict[str, Any], ceiling: dict[str, float]) -> dict[str, Any]:
    """`measure_step`'s result with each row's GFLOP/s as a part of the ceiling."""
    peak = max(ceiling.values())
    rated = {
        kind: {name: row | {"mfu": row["gflop"] / row["seconds"] / peak} for name, row in result[kind].items()}
        for kind in ("parts", "sums")
    }
    return result | rated


def _lap(device: torch.device, work: Callable[[Callable[[str], None]], object]) -> dict[str, float]:
    """Seconds between marks; on a GPU on the device's own timeline, so that nothing waits in between."""
    names: list[str] = []
    times: list[Any] = []

    def tick() -> None:
        if device.type == "cuda":
            times.append(torch.cuda.Event(enable_timing=True))
            times[-1].record()
        else:
            times.append(time.perf_counter())

    def mark(name: str) -> None:
        names.append(name)
        tick()

    synchronize(device)
    tick()
    work(mark)
    synchronize(device)
    cuda = device.type == "cuda"
    spans = [a.elapsed_time(b) / 1e3 if cuda else b - a for a, b in pairwise(times)]
    return dict(zip(names, spans, strict=True))


def _count(work: Callable[[Callable[[str], None]], object]) -> dict[str, float]:
    """GFLOP between marks; compiled networks are counted as they were written."""
    found: dict[str, float] = {}
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)

    def mark(name: str) -> None:
        found[name] = counter.get_total_flops() / 1e9 - sum(found.values())

    with torch.compiler.set_stance("force_eager"), counter:
        work(mark)
    return found


def _engine_step(solver: LatentDPS, problem: Problem, z: Tensor, steps: int = 2) -> float:
    """Seconds of a step inside the engine, all images in flight together: the mean of those after the first."""
    started = [
        InFlight(Restored(n, str(n)), z[n], steps + 1, problem, n, solver, ImageNoise(torch.Generator().manual_seed(n)))
        for n in range(len(z))
    ]
    began: list[float] = []

    def moved(_: int) -> None:
        if not began:
            synchronize(z.device)
            began.append(time.perf_counter())

    for _ in Slots(len(z), moved).run([started]):
        pass
    synchronize(z.device)
    return (time.perf_counter() - began[0]) / steps


# -- options and results ------------------------------------------------------------------------------------


def parser_of(description: str | None, batches: list[int]) -> argparse.ArgumentParser:
    """A parser with the options of both."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results file")
    parser.add_argument("--batch", type=int, nargs="+", default=batches, help="images in a step; several: in turn")
    parser.add_argument("--repeats", type=int, default=5, help="times are medians of so many")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=DTYPES, default="float32")
    parser.add_argument("--compile", nargs="?", const="default", metavar="MODE", help="compile the networks")
    parser.add_argument("--matmul", type=int, nargs="+", default=(), help="sizes of the ceiling's matrix products")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def write(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """The results file: options, machine, versions, seed and date beside what was measured."""
    device = torch.device(options.device)
    about = {
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "environment": environment(device),
        "date": datetime.now(UTC).date().isoformat(),
        "seed": options.seed,
    }
    if device.type == "cuda":
        results = {**results, "peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
    write_json(options.out, about | results)


def table(result: dict[str, Any]) -> str:
    """A result `with_mfu` as Markdown."""
    lines = [f"batch {result['batch']}", "", "| part | ms | share | GFLOP | MFU |", "|---|---:|---:|---:|---:|"]
    for name, row in (result["parts"] | result["sums"]).items():
        share = f"{row['share']:.1%}" if "share" in row else ""
        lines.append(f"| {name} | {1e3 * row['seconds']:.2f} | {share} | {row['gflop']:.2f} | {row['mfu']:.1%} |")
    over = f"the parts take {result['parts_over_step']:.2f} of solver.step, the engine {result['engine_over_step']:.2f}"
    if max(row["mfu"] for row in result["sums"].values()) > 1:
        over += "\nMFU above 100 %: something else held the machine while its ceiling was measured; run it again"
    return "\n".join([*lines, "", over, ""])


def measure_batches(
    options: argparse.Namespace, solver: Solver, shape: tuple[int, int, int], about: dict[str, Any]
) -> dict[str, Any]:
    """A step at each batch size, and the ceiling before and after each; printed, and written with `about`."""
    if not isinstance(solver, LatentDPS):
        raise TypeError(f"the parts are those of LatentDPS; got {type(solver).__name__}")
    device, dtype = torch.device(options.device), DTYPES[options.precision]
    peak, steps = ceiling(device, dtype, options.matmul), []
    for batch in options.batch:
        problem = problem_of(batch, about["size"], device, options.seed)
        steps.append(measure_step(solver, problem, shape, options.repeats, options.seed))
        peak = best_of(peak, ceiling(device, dtype, options.matmul))
        results = about | {"ceiling": peak, "steps": [with_mfu(step, peak) for step in steps]}
        write(options, results)
    print(f"ceiling: {max(peak.values()):.0f} GFLOP/s of {options.precision} matrix products\n")
    print("\n".join(table(step) for step in results["steps"]))
    return results
