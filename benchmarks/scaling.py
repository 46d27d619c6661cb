"""More workers, more images, by Ray: `python benchmarks/scaling.py --data DATA --out FILE [--images 32]`.

model   the embedded model on `--images` images, with 1 and with 2 workers of one core each, in turn in one run
stub    1 to 4 workers and 10 to 10,000 images, with a stub that waits for a fixed time in place of the model: what
        dealing out and collecting cost, on a machine that has not the cores (or the hours) for the model itself

Seconds run from the moment a worker is ready to the last result; `start` is what came before: Ray, processes, model.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from flashdiffusion.data import ImageDataset, write_json
from flashdiffusion.jobs import EvaluateJob, Item, Job, ModelChoice, Worker, run_on_ray
from flashdiffusion.jobs.records import environment
from flashdiffusion.presets import preset_for

TASK = "gaussian-blur"
MODES = ("model", "stub")


@dataclass(frozen=True)
class Stub:
    """A stand-in for a model: `seconds` of waiting for each image, and an answer of an image's size."""

    seconds: float
    size: int = 30_000

    def open(self) -> Worker:
        return self._work

    def _work(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            time.sleep(self.seconds)
            yield replace(item, record={"id": item.name}, pngs={"restored": bytes(self.size)})


@dataclass(frozen=True)
class Clocked:
    """A job whose records say when their worker was ready, and which it was."""

    job: Job

    def open(self) -> Worker:
        worker, ready = self.job.open(), time.time()

        def work(items: Iterable[Item]) -> Iterator[Item]:
            for done in worker(items):
                yield replace(done, record={**(done.record or {}), "ready": ready})

        return work


def clock(job: Job, items: list[Item], workers: int) -> dict[str, Any]:
    """One pass over the items."""
    began = time.time()
    dones = list(run_on_ray(Clocked(job), items, workers, cpus=1, gpus=0))
    ended = time.time()
    failed = [done.reason for done in dones if done.reason]
    if failed or sorted(done.index for done in dones) != [item.index for item in items]:
        raise SystemExit(f"{len(dones)} results for {len(items)} images, failed: {failed[:1]}")
    ready = {float(done.record["ready"]) for done in dones if done.record}
    seconds = ended - min(ready)
    return {
        "workers": workers,
        "at work": len(ready),
        "images": len(items),
        "start": round(min(ready) - began, 2),
        "seconds": round(seconds, 2),
        "images_per_second": round(len(items) / seconds, 3),
    }


def with_model(options: argparse.Namespace) -> dict[str, Any]:
    """1 and 2 workers in turn."""
    size = 128
    ids = ImageDataset([options.data], size, options.images).ids
    items = [Item(index, name, name) for index, name in enumerate(ids)]
    job = EvaluateJob(
        (options.data,),
        ModelChoice(options.model, "cpu", options.precision),
        TASK,
        "flash(latent-dps)",
        settings=preset_for(ModelChoice().presets, TASK, "flash", "latent-dps"),
        seed=options.seed,
        limit=options.images,
    )
    rows = [clock(job, items, workers) for _ in range(options.rounds) for workers in (1, 2)]
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(rows[::2], rows[1::2], strict=True)]
    return {"runs": rows, "speedup of 2 workers": [round(ratio, 3) for ratio in ratios]}


def with_stub(options: argparse.Namespace) -> list[dict[str, Any]]:
    counts = [(workers, 1000) for workers in (1, 2, 3, 4)] + [(4, n) for n in (10, 100, options.most)]
    rows = []
    for workers, images in counts:
        items = [Item(index, str(index)) for index in range(images)]
        row = clock(Stub(options.wait), items, workers)
        ideal = images * options.wait / workers
        rows.append(row | {"efficiency": round(ideal / row["seconds"], 3)})
        print(rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of images or .tar shard, for the model")
    parser.add_argument("--out", type=Path, required=True, help="results file (JSON)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--model", help="default: the embedded one")
    parser.add_argument("--wait", type=float, default=0.02, help="seconds that the stub takes for an image")
    parser.add_argument("--most", type=int, default=10_000, help="most images for the stub")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if "model" in options.modes and options.data is None:
        parser.error("the model needs --data")
    import ray

    result: dict[str, Any] = {
        "command": ["python", "benchmarks/scaling.py", *sys.argv[1:]],
        "date": date.today().isoformat(),
        "environment": environment(torch.device("cpu")) | {"ray": ray.__version__},
        "precision": options.precision,
        "seed": options.seed,
        "stub seconds per image": options.wait,
    }
    for mode, measure in (("model", with_model), ("stub", with_stub)):
        if mode in options.modes:
            result[mode] = measure(options)
            write_json(options.out, result)
            print(mode, result[mode], flush=True)


if __name__ == "__main__":
    main()
