"""A method on a task: degrade pictures, restore them, measure what came out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.data import PictureDataset
from flashdiffusion.errors import InputError, unknown_name
from flashdiffusion.experiments.records import Record
from flashdiffusion.methods import METHODS, Settings, parse_method
from flashdiffusion.metrics import LPIPS, psnr, ssim
from flashdiffusion.physics.tasks import Task, measure
from flashdiffusion.pipeline import FlashPipeline, Restoration
from flashdiffusion.severity import true_severity

# Not a method: what the autoencoder alone makes of the clean picture, the bound of every latent method.
BOUND = "bound"


@dataclass(frozen=True)
class Evaluation:
    """One finished batch: its records and pictures (B, 3, H, W) in [0, 1]."""

    records: list[Record]
    clean: Tensor
    measured: Tensor
    restored: Tensor


def evaluate(
    pipeline: FlashPipeline,
    data: PictureDataset,
    task: Task,
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
    if method != BOUND and method.lower().replace(" ", "") not in METHODS:
        raise unknown_name("method", method, [*METHODS, BOUND])
    if batch_size < 1:
        raise InputError(f"batch size is {batch_size}; expected at least 1")
    for first in range(0, len(data), batch_size):
        rows = range(first, min(first + batch_size, len(data)))
        ids = [data.ids[i] for i in rows]
        clean = data.batch(rows)
        measured = measure(clean, ids, task, noise_std, seed)
        restoration = None
        true = None
        if method == BOUND:
            restored = _reconstruct(pipeline, clean)
        else:
            start, solver = parse_method(method)
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
                true = _true_severity(pipeline, clean, measured.y)
        yield Evaluation(
            _records(ids, clean, measured.y, restored, restoration, true, lpips), clean, measured.y, restored
        )


@torch.no_grad()
def _reconstruct(pipeline: FlashPipeline, clean: Tensor) -> Tensor:
    x = clean.to(pipeline.prior.device, pipeline.prior.dtype)
    return pipeline.prior.decode(pipeline.prior.encode(x)).float().clamp(0, 1).cpu()


@torch.no_grad()
def _true_severity(pipeline: FlashPipeline, clean: Tensor, y: Tensor) -> Tensor:
    z0 = pipeline.prior.encode(clean.to(pipeline.prior.device, pipeline.prior.dtype))
    return true_severity(pipeline.severity(y).z_hat, z0).float().cpu()


@torch.no_grad()
def _records(
    ids: list[str],
    clean: Tensor,
    y: Tensor,
    restored: Tensor,
    restoration: Restoration | None,
    true: Tensor | None,
    lpips: LPIPS | None,
) -> list[Record]:
    quality = {"psnr": psnr(restored, clean), "ssim": ssim(restored, clean)}
    quality["measurement_psnr"] = psnr(y.clamp(0, 1), clean)
    if lpips is not None:
        quality["lpips"] = lpips(restored, clean)
    if true is not None:
        quality["true_severity"] = true
    records = []
    for i, picture_id in enumerate(ids):
        values: dict[str, Any] = {key: float(value[i]) for key, value in quality.items()}
        if restoration is not None:
            values |= restoration.row(i)
        records.append(Record(picture_id, **values))
    return records
