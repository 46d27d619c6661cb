"""A method on a task: degrade pictures, restore them, measure what came out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.data import PictureDataset
from flashdiffusion.errors import InputError
from flashdiffusion.experiments.records import Record
from flashdiffusion.methods import Settings, parse_method
from flashdiffusion.metrics import LPIPS, psnr, ssim
from flashdiffusion.physics import BatchedPhysics, is_linear
from flashdiffusion.physics.tasks import Mixture, Task, measure
from flashdiffusion.pipeline import FlashPipeline, Restoration
from flashdiffusion.severity import true_severity

# Not a method: what the autoencoder alone makes of the clean picture, the bound of every latent method.
BOUND = "bound"
PROBE = (64, 64)  # pixels of a picture that a task is tried on


@dataclass(frozen=True)
class Evaluation:
    """One finished batch: its records and pictures (B, 3, H, W) in [0, 1], and (id, reason) of unreadable pictures.

    measured: the measurements as pictures.
    """

    records: list[Record]
    clean: Tensor
    measured: Tensor
    restored: Tensor
    failed: list[tuple[str, str]]


def evaluate(
    pipeline: FlashPipeline,
    data: PictureDataset,
    task: Task | Mixture,
    method: str,
    noise_std: float = 0.05,
    seed: int = 0,
    settings: Settings | None = None,
    lpips: LPIPS | None = None,
    batch_size: int = 32,
    capacity: int = 16,
    progress: bool = False,
) -> Iterator[Evaluation]:
    """Restore every picture of `data`; batches come as they finish.

    Args:
        method: a name of `methods.METHODS`, or "bound": D0(E0(x)).
        seed: of measurements and sampling; the same (seed, picture id) gives the same measurement for
            every method.

    Raises:
        InputError: unknown method, settings out of range.
    """
    start, solver = ("", "") if method == BOUND else parse_method(method, [BOUND])
    if batch_size < 1:
        raise InputError(f"batch size is {batch_size}; expected at least 1")
    _check_linear(task, solver)
    for first in range(0, len(data), batch_size):
        rows, failed = data.readable(range(first, min(first + batch_size, len(data))))
        if not rows:
            yield Evaluation([], torch.empty(0), torch.empty(0), torch.empty(0), failed)
            continue
        ids = [data.ids[i] for i in rows]
        clean = data.batch(rows)
        measured = measure(clean, ids, task, noise_std, seed)
        looks = measured.physics.picture(measured.y)
        restoration = None
        true = None
        if method == BOUND:
            restored = _reconstruct(pipeline, clean, capacity)
        else:
            restoration = pipeline(
                measured.y,
                measured.physics,
                solver=solver,
                start=start,
                seed=seed,
                ids=ids,
                settings=settings,
                capacity=capacity,
                progress=progress,
            )
            restored = restoration.images
            if restoration.severity is not None:
                true = _true_severity(pipeline, clean, looks, capacity)
        records = _records(ids, clean, looks, measured.physics, restored, restoration, true, lpips)
        yield Evaluation(records, clean, looks, restored, failed)


def _check_linear(task: Task | Mixture, solver: str) -> None:
    """Refuse a task that may draw what the solver cannot serve, whatever it draws this time."""
    if solver != "psld":
        return
    for one in task.tasks if isinstance(task, Mixture) else (task,):
        physics = one.draw(1, PROBE, torch.Generator().manual_seed(0), 0.0)
        if not is_linear(physics):
            raise InputError(f"psld needs linear degradations, and task {task.name} has {one.name}; use another solver")


@torch.no_grad()
def _reconstruct(pipeline: FlashPipeline, clean: Tensor, capacity: int) -> Tensor:
    prior = pipeline.prior
    parts = [prior.decode(prior.encode(part.to(prior.device))) for part in clean.split(capacity)]
    return torch.cat(parts).clamp(0, 1).cpu()


@torch.no_grad()
def _true_severity(pipeline: FlashPipeline, clean: Tensor, y: Tensor, capacity: int) -> Tensor:
    prior = pipeline.prior
    z0 = torch.cat([prior.encode(part.to(prior.device)) for part in clean.split(capacity)])
    return true_severity(pipeline.severity(y, capacity).z_hat, z0).cpu()


@torch.no_grad()
def _records(
    ids: list[str],
    clean: Tensor,
    measured: Tensor,
    physics: BatchedPhysics,
    restored: Tensor,
    restoration: Restoration | None,
    true: Tensor | None,
    lpips: LPIPS | None,
) -> list[Record]:
    quality = {"psnr": psnr(restored, clean), "ssim": ssim(restored, clean)}
    quality["measurement_psnr"] = psnr(measured.clamp(0, 1), clean)
    if lpips is not None:
        quality["lpips"] = lpips(restored, clean)
    if true is not None:
        quality["true_severity"] = true
    degradations = physics.describe()
    records = []
    for i, picture_id in enumerate(ids):
        values: dict[str, Any] = {key: float(value[i]) for key, value in quality.items()}
        values["degradation"] = degradations[i]
        if restoration is not None:
            values |= restoration.row(i)
        records.append(Record(picture_id, **values))
    return records
