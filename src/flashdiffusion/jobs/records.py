"""Records of images compared, summarised and reported."""

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashdiffusion import __version__
from flashdiffusion.metrics import Measured, Metrics, psnr
from flashdiffusion.record import NO_FIGURES, Record, plain


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
