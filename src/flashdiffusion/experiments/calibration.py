"""Is the severity map true? Coverage of its intervals on a task, and the factor that would make it so.

An entry e of ẑ - z0, at a place of variance v, lies in the map's central interval of level p if |e| <= q_p √v, where
q_p is the quantile of a Gaussian: 0.674 for 50 %, 1.645 for 90 %.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.data import ImageDataset, atomic_path
from flashdiffusion.experiments.ordering import BATCH, severity_of
from flashdiffusion.jobs.records import severity_quality
from flashdiffusion.physics.tasks import Mixture, Task, measure
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.record import plain
from flashdiffusion.severity import Severity, true_severity

TARGET = 0.9  # the coverage that the factor is for
NOMINAL = torch.arange(1, 10) / 10
FACTORS = torch.logspace(-2, 2, 801)  # of the variance, 1.2 % apart
RESAMPLES = 500


@dataclass(frozen=True)
class Checked:
    """An image at one noise level, or why it could not be read.

    index: its place in the data. severity, true_severity: σ̂² and σ̄². coverage: share of entries within the interval at
    each of `NOMINAL`, (9,). widened: share within the 90 % interval if the variance is multiplied by each of `FACTORS`.
    """

    index: int
    id: str
    noise_std: float = 0.0
    severity: float = 0.0
    true_severity: float = 0.0
    coverage: Tensor = NOMINAL
    widened: Tensor = FACTORS
    failed: str | None = None


@torch.no_grad()
def measure_calibration(
    pipeline: FlashPipeline,
    data: ImageDataset,
    task: Task | Mixture,
    noise_stds: Sequence[float],
    seed: int = 0,
    blind: bool = False,
) -> Iterator[Checked]:
    """Each image at every noise level; its measurement is the one that `evaluate` makes of it with the same seed.

    Args:
        blind: whether the encoder sees the measurement alone, and is told nothing of its physics.

    Raises:
        InputError: a noise level that cannot be, or a model without a severity encoder.
    """
    for rows, clean, failed in data.batches(range(len(data)), BATCH):
        yield from (Checked(i, data.ids[i], failed=reason) for i, reason in failed.items())
        if not rows:
            continue
        ids = [data.ids[i] for i in rows]
        z0 = pipeline.prior.encode(clean.to(pipeline.prior.device)).float()
        for std in noise_stds:
            severity = severity_of(pipeline, measure(clean, ids, task, std, seed), blind)
            yield from _checked(rows, ids, std, severity, z0)


def _checked(rows: list[int], ids: list[str], noise_std: float, severity: Severity, z0: Tensor) -> Iterator[Checked]:
    z_hat = severity.z_hat.float()
    score = ((z_hat - z0).square() / severity.map).flatten(1).sort(dim=1).values.cpu()
    bounds = torch.cat([_squared_quantile(NOMINAL), FACTORS * _squared_quantile(torch.tensor(TARGET))])
    shares = torch.searchsorted(score, bounds.repeat(len(score), 1), right=True) / score.shape[1]
    coverage, widened = shares.split([len(NOMINAL), len(FACTORS)], dim=1)
    var, true = severity.var.float().tolist(), true_severity(z_hat, z0).tolist()
    for n, row in enumerate(rows):
        yield Checked(row, ids[n], noise_std, var[n], true[n], coverage[n].clone(), widened[n].clone())


def _squared_quantile(level: Tensor) -> Tensor:
    return 2 * torch.erfinv(level).square()


def variance_factor(rows: Sequence[Checked]) -> float | None:
    """The least of `FACTORS` by which the map's variance must be multiplied for 90 % coverage, None if there is none.

    By conformal risk control (Angelopoulos et al. 2022) over images: of a further image from where these come from, at
    all their noise levels alike, 90 % of the entries are covered in expectation. It takes at least nine images.
    """
    images: dict[int, list[Tensor]] = {}
    for row in rows:
        images.setdefault(row.index, []).append(row.widened)
    covered = torch.stack([torch.stack(levels).mean(dim=0) for levels in images.values()]).sum(dim=0)
    enough = (covered / (len(images) + 1) >= TARGET).nonzero()[:, 0]  # the further image may have none covered
    return float(FACTORS[enough[0]]) if len(enough) else None


def summarise(rows: Sequence[Checked], seed: int = 0) -> dict[str, Any]:
    """Figures of each noise level with their 95 % bootstrap intervals over images, the factor, a record per image."""
    levels = [_level([row for row in rows if row.noise_std == std], seed) for std in {row.noise_std: 0 for row in rows}]
    records = [
        {"id": row.id, "noise_std": row.noise_std, "severity": row.severity, "true_severity": row.true_severity}
        | {"coverage_90": float(row.coverage[-1])}
        for row in rows
    ]
    return {
        "levels": levels,
        "variance_factor": plain(variance_factor(rows)),
        "records": [{key: plain(value) for key, value in record.items()} for record in records],
    }


def _level(rows: list[Checked], seed: int) -> dict[str, Any]:
    coverage = torch.stack([row.coverage for row in rows])
    predicted, true = (torch.tensor([getattr(row, name) for row in rows]) for name in ("severity", "true_severity"))

    def figures(picked: Tensor) -> dict[str, float | None]:
        mean = coverage[picked].mean(dim=0)
        found = {"coverage_50": mean[4], "coverage_90": mean[8], "calibration_error": (mean - NOMINAL).abs().mean()}
        return {name: plain(float(one)) for name, one in found.items()} | severity_quality(
            predicted[picked], true[picked]
        )

    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(rows), (RESAMPLES, len(rows)), generator=generator)
    again = [figures(picked) for picked in picks]
    whole = figures(torch.arange(len(rows)))
    intervals = {name: _interval([one[name] for one in again]) for name in whole}
    curve = [[plain(p), plain(c)] for p, c in zip(NOMINAL.tolist(), coverage.mean(dim=0).tolist(), strict=True)]
    return {
        "noise_std": rows[0].noise_std,
        "images": len(rows),
        **whole,
        "intervals": intervals,
        "reliability": curve,
    }


def _interval(values: Sequence[float | None]) -> list[float | None]:
    known = torch.tensor([value for value in values if value is not None] or [float("nan")])
    return [plain(value) for value in torch.quantile(known, torch.tensor([0.025, 0.975])).tolist()]


def plot_reliability(levels: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw coverage over nominal level, a curve for each noise level, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    for level in levels:
        nominal, covered = zip(*level["reliability"], strict=True)
        axis.plot([0, *nominal, 1], [0, *covered, 1], marker="o", markersize=3, label=f"noise {level['noise_std']:g}")
    axis.set(xlabel="nominal level of the interval", ylabel="share of entries in it", xlim=(0, 1), ylim=(0, 1))
    axis.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
