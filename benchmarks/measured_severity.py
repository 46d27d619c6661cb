"""Severity measured on a few pictures, in place of the severity encoder: how true, how ordered, what it costs.

Each kind on the same images of a task, by the default method and the model's settings for it.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from flashdiffusion import FlashPipeline
from flashdiffusion.data import ImageDataset, write_json
from flashdiffusion.experiments.ordering import measure_ordering, ordering_values
from flashdiffusion.jobs.records import environment
from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.metrics.quality import psnr
from flashdiffusion.physics import get_task
from flashdiffusion.physics.tasks import measure
from flashdiffusion.severity import true_severity


def figures(pipe: FlashPipeline, data: ImageDataset, given: argparse.Namespace, lpips: LPIPS) -> dict[str, Any]:
    """Of one kind of severity."""
    task, ids = get_task(given.task), data.ids[: given.images]
    x = data.batch(range(len(ids)))
    measured = measure(x, ids, task, given.noise_std, given.seed)
    start = time.process_time()
    severity = pipe.severity(measured.y, measured.physics)
    seconds = (time.process_time() - start) / len(ids)
    true = true_severity(severity.z_hat.float(), pipe.prior.encode(x).float())
    logs = torch.stack([true.log(), severity.var.log()])
    restored = pipe(measured.y, measured.physics, ids=ids, method="flash(proximal)", seed=given.seed)
    some = ImageDataset([Path(given.data)], data.side, given.ordered)
    levels = ordering_values(task, 10, noise_std=given.noise_std)
    orders = [one.accuracy for one in measure_ordering(pipe, some, task, given.noise_std, levels, given.seed)]
    return {
        "true_severity": float(true.mean()),
        "severity": float(severity.var.mean()),
        "correlation_of_logs": float(torch.corrcoef(logs)[0, 1]),
        "cpu_seconds_per_image": seconds,
        "ordering_accuracy": sum(orders) / len(orders),
        "psnr": float(psnr(restored.images, x).mean()),
        "lpips": float(lpips(restored.images, x).mean()),
        "nfe": float(restored.nfe.float().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images or .tar shard")
    parser.add_argument("--lpips", required=True, help="LPIPS weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="one that has a severity encoder; default: the embedded faces-128")
    parser.add_argument("--task", default="gaussian-blur")
    parser.add_argument("--noise-std", type=float, default=0.05)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--ordered", type=int, default=6, help="images that are ordered by severity, at ten levels")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lpips, results = LPIPS.load(given.lpips), {}
    for kind in ("encoder", "measured"):
        pipe = FlashPipeline.from_pretrained(given.model)
        if kind == "measured":
            pipe.measure_severity()
        data = ImageDataset([Path(given.data)], pipe.sample_size or 128, given.images)
        results[kind] = figures(pipe, data, given, lpips)
        print(kind, results[kind], flush=True)
    options = {name: value for name, value in vars(given).items() if name not in ("data", "lpips", "out")}
    write_json(given.out, {"environment": environment(torch.device("cpu")), "options": options, **results})


if __name__ == "__main__":
    main()
