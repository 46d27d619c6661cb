"""A restored image beside the true one, as fields of a record."""

from typing import Any

from torch import Tensor

from flashdiffusion.metrics import Metrics, psnr


def compare(metrics: Metrics, restored: Tensor, truth: Tensor, measured: Tensor) -> dict[str, Any]:
    """What a `Record` holds of the quality of an image and of its measurement, each (3, H, W)."""
    quality = metrics(restored, truth)
    before = float(psnr(measured[None].float().clamp(0, 1), truth[None]))
    return {"metrics": quality.values, "missing": quality.missing or None, "measurement_psnr": before}
