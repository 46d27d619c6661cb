"""One record per image, and their means."""

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashdiffusion import __version__
from flashdiffusion.errors import InputError
from flashdiffusion.metrics import Measured, Metrics, psnr

# Fields of a record that are no figures.
NO_FIGURES = frozenset({"id", "degradation", "physics_corrected", "missing", "file", "digest", "tiles"})


@dataclass(frozen=True)
class Record:
    """What is known of one image; None where it is not.

    noise_std: σ_y, if it was estimated from the image. start_step: time of its start on the full schedule, so that
    runs on two grids compare. measurement_psnr: of the measurement, before restoration. physics_corrected: see
    `Restored`; False is not written. metrics: figures of quality by metric; in JSON each stands beside the other
    fields. missing: why a metric has no figure. file: where it came from. digest: of what was read for it, see
    `jobs.inputs`. tiles: what is known of each, if the image was restored in tiles, see `TileMap.plain`.
    """

    id: str
    degradation: dict[str, Any] | None = None
    noise_std: float | None = None
    severity: float | None = None
    true_severity: float | None = None
    start_step: int | None = None
    nfe: float | None = None
    gflop: float | None = None
    seconds: float | None = None
    measurement_psnr: float | None = None
    physics_corrected: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] | None = None
    file: str | None = None
    digest: str | None = None
    tiles: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields that are known, rounded to six significant digits; null where a number is not finite."""
        row = asdict(self)
        quality = row.pop("metrics")
        last = {key: row.pop(key) for key in ("missing", "file", "digest", "tiles")}
        row["physics_corrected"] = row["physics_corrected"] or None
        return {key: plain(value) for key, value in (row | quality | last).items() if value is not None}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Record":
        """The inverse of `to_json`, but for what was rounded: a number that was not finite is NaN.

        Raises:
            InputError: fields that a record has not.
        """
        values: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
        own = {field.name for field in fields(cls)} - {"metrics"}
        quality = {key: values.pop(key) for key in row if key not in own}
        if "id" not in values or not all(isinstance(value, (int, float)) for value in quality.values()):
            known = ", ".join(sorted(own))
            raise InputError(f"a record with the fields {', '.join(row)}; expected an id, of {known}, and metrics")
        return cls(**values, metrics=quality)


def compare(
    metrics: Metrics, restored: Tensor, truth: Tensor | None, measured: Tensor, problem: Measured | None = None
) -> dict[str, Any]:
    """What a `Record` holds of the quality of an image and of its measurement, each (3, H, W), as far as it is known.

    measured: the measurement as an image. problem: the measurement with its physics, of this image alone.
    """
    quality = metrics(restored, truth, problem)
    found: dict[str, Any] = {"metrics": quality.values, "missing": quality.missing or None}
    if truth is not None:
        found["measurement_psnr"] = float(psnr(measured[None].float().clamp(0, 1), truth[None]))
    return found


def plain(value: Any) -> Any:
    """A number as JSON can hold it: six significant digits, None for NaN and infinities."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Means over the images of every number that all of them have, and how well severities are predicted.

    A mean that is not finite (a perfect image's PSNR) is null.
    """
    summary: dict[str, Any] = {"images": len(records)}
    if not records:
        return summary
    rows = [record.to_json() for record in records]
    for key in (k for k in rows[0] if k not in NO_FIGURES):
        values = [row[key] for row in rows if key in row]
        if len(values) == len(rows):
            summary[key] = plain(math.nan if None in values else sum(values) / len(values))
    if len(rows) > 2 and "true_severity" in summary and "severity" in summary:
        summary["severity_quality"] = severity_quality(
            torch.tensor([r["severity"] for r in rows]), torch.tensor([r["true_severity"] for r in rows])
        )
    return summary


def severity_quality(predicted: Tensor, true: Tensor) -> dict[str, float | None]:
    """How well severities (n,) are predicted: rank correlation, median ratio, and 90th over 10th percentile of both."""
    from torchmetrics.functional.regression import spearman_corrcoef

    (low, high), (least, most) = (torch.quantile(one, torch.tensor([0.1, 0.9])).tolist() for one in (true, predicted))
    return {
        "spearman": plain(float(spearman_corrcoef(predicted, true))),
        "median_ratio": plain(float((predicted / true).median())),
        "spread": plain(most / least),
        "true_p10": plain(low),
        "true_p90": plain(high),
        "true_spread": plain(high / low),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Machine and versions, to stand beside every measured figure."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "flashdiffusion": __version__,
    }


def made_by(device: torch.device, about: Mapping[str, Any]) -> dict[str, Any]:
    """What every results file starts with: the command, where it ran, and what it was about."""
    script = Path(sys.argv[0])
    name = script.name if script.suffix == ".py" and script.stem != "__main__" else "flashdiffusion"
    return {"command": [name, *sys.argv[1:]], "environment": environment(device), **about}


def report(
    device: torch.device,
    about: Mapping[str, Any],
    records: Sequence[Record],
    failed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a results file holds: how it was made, the means, a record per image, why others failed."""
    return {
        **made_by(device, about),
        "mean": summarise(records),
        "records": [record.to_json() for record in records],
        "failed": [{"id": name, "reason": reason} for name, reason in (failed or {}).items()],
    }
