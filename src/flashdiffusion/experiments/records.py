"""One record per picture, and their means."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch


@dataclass(frozen=True)
class Record:
    """What is known of one picture; None where it is not."""

    id: str
    severity: float | None = None
    true_severity: float | None = None
    start: int | None = None
    nfe: int | None = None
    gflop: float | None = None
    seconds: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    measurement_psnr: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields that are known, rounded to six significant digits."""
        return {
            key: float(f"{value:.6g}") if isinstance(value, float) else value
            for key, value in asdict(self).items()
            if value is not None
        }


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Means over the pictures of every field that all of them have, and how well severities are predicted."""
    summary: dict[str, Any] = {"pictures": len(records)}
    rows = [record.to_json() for record in records]
    for key in (k for k in rows[0] if k != "id"):
        values = [float(row[key]) for row in rows if key in row]
        if len(values) == len(rows):
            summary[key] = float(f"{sum(values) / len(values):.6g}")
    if len(rows) > 2 and "true_severity" in summary and "severity" in summary:
        summary["severity_quality"] = _severity_quality(
            torch.tensor([r["severity"] for r in rows]), torch.tensor([r["true_severity"] for r in rows])
        )
    return summary


def _severity_quality(predicted: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
    from torchmetrics.functional.regression import spearman_corrcoef

    low, high = torch.quantile(true, torch.tensor([0.1, 0.9])).tolist()
    return {
        "spearman": round(float(spearman_corrcoef(predicted, true)), 4),
        "median_ratio": round(float((predicted / true).median()), 4),
        "true_p10": float(f"{low:.4g}"),
        "true_p90": float(f"{high:.4g}"),
        "true_spread": round(high / low, 2),
    }


def environment() -> dict[str, Any]:
    """Machine and versions, to stand beside every measured figure."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "flashdiffusion": version("flashdiffusion"),
    }
