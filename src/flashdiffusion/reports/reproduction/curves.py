"""Figures 3 and 4: severity over blur, on one image and over a set, and what contributes to it."""

import numpy as np
from scipy.stats import rankdata, spearmanr

from flashdiffusion.record import plain
from flashdiffusion.reports.reproduction.plotting import SIGMA, panels
from flashdiffusion.reports.reproduction.target import Produced, Study, target

OUTLIER = 2.5  # median absolute deviations from the trend


@target("fig3", "Severity over blur, one image at a time")
def fig3(study: Study) -> Produced:
    result = study.order()
    levels = [next(iter(row.values())) for row in result["levels"]]
    curves = np.sqrt([row["severities"] for row in result["records"]])
    figure, (axis,) = panels(1, width=4.6)
    axis.plot(levels, curves.T, color="grey", alpha=0.25, linewidth=0.8)
    axis.plot(levels, curves[0], color="C3", marker="o", markersize=4, label=result["records"][0]["id"])
    axis.plot(levels, curves.mean(axis=0), color="black", linewidth=2, label="mean")
    axis.set(xlabel="std of the blur in pixels", ylabel=SIGMA)
    axis.legend(fontsize=8)
    return Produced(
        figures={"figure": figure},
        data={"levels": levels, "severities": [row["severities"] for row in result["records"]]},
        caption="Severity that the encoder predicts for an image under more and more Gaussian blur, with fresh noise "
        f"of std 0.05 at each. Ordering accuracy {result['ordering_accuracy']:.4f}.",
    )


@target("fig4", "Severity over a set of images: outliers, and what contributes")
def fig4(study: Study) -> Produced:
    blurred, noisy = study.evaluate(["ae"], ["gaussian-blur", "denoising"])
    ids = [id for id in blurred.values("severity") if id in noisy.values("severity")]
    blur = np.array([blurred.records[id]["degradation"]["std"] for id in ids])
    severity, alone = (np.sqrt([cell.values("severity")[id] for id in ids]) for cell in (blurred, noisy))
    trend = np.polyval(np.polyfit(blur, np.log(severity), min(3, len(ids) - 1)), blur)
    left = np.log(severity) - trend
    spread = np.median(np.abs(left - np.median(left)))
    outlier = np.abs(left - np.median(left)) > OUTLIER * max(spread, 1e-9) * 1.4826
    figure, axes = panels(2)
    axes[0].scatter(blur, severity, s=10, color="C0", alpha=0.5)
    axes[0].scatter(blur[outlier], severity[outlier], s=22, color="C3", label=f"outliers: {outlier.sum()}")
    axes[0].set(xlabel="std of the blur in pixels", ylabel=SIGMA)
    axes[0].legend(fontsize=8)
    ranks = [100 * (rankdata(one) - 0.5) / len(ids) for one in (severity, alone)]
    points = axes[1].scatter(*ranks, s=12, c=blur, cmap="viridis")
    axes[1].set(xlabel="percentile of σ̂, blurred and noisy", ylabel="percentile of σ̂, noisy alone")
    figure.colorbar(points, ax=axes[1], label="std of the blur")
    by_blur, by_image = (float(spearmanr(one, severity).statistic) for one in (blur, alone))
    return Produced(
        figures={"figure": figure},
        data={
            "images": [
                {"id": id, "blur": float(b), "severity": float(s), "severity_noisy": float(a), "outlier": bool(o)}
                for id, b, s, a, o in zip(ids, blur, severity, alone, outlier, strict=True)
            ],
            "spearman": {"blur": plain(by_blur), "image": plain(by_image)},
        },
        caption="Left: the predicted severity of images with blur of their own; outliers are those far off the trend. "
        "Right: how hard an image is among the others with its blur, and with noise alone: at the same severity, blur "
        f"and the image itself contribute differently. Rank correlation of severity with blur {by_blur:.2f}, with the "
        f"severity of noise alone {by_image:.2f}.",
    )
