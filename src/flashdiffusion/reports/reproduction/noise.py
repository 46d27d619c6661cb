"""Figures 7 to 10: noise beyond what the severity encoder was trained on."""

import numpy as np

from flashdiffusion.reports.reproduction.plotting import SIGMA, draw, panels
from flashdiffusion.reports.reproduction.target import Produced, Study, means_of, target, wide
from flashdiffusion.reports.statistics import interval

TRAINED = 0.3  # the largest σ_y in training of the embedded encoder; the paper's knows 0.05 alone
LEVELS, FEW = (0.01, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6), (0.05, 0.3, 0.6)
_HERE = f"The embedded encoder was trained on noise up to {TRAINED}, the paper's on 0.05."


def _levels(study: Study) -> tuple[float, ...]:
    return FEW if study.quick else LEVELS


@target("fig7", "Severity of one image over blur, at several noise levels")
def fig7(study: Study) -> Produced:
    figure, axes = panels(len(FEW))
    data = {}
    for axis, std in zip(axes, FEW, strict=True):
        result = study.order(noise_std=std)
        levels = [next(iter(row.values())) for row in result["levels"]]
        curve = np.sqrt(result["records"][0]["severities"])
        axis.plot(levels, curve, marker="o", markersize=4, color="C3")
        axis.set(title=f"noise {std:g}", xlabel="std of the blur in pixels", ylabel=SIGMA)
        data[f"{std:g}"] = curve.tolist()
    return Produced(
        figures={"figure": figure},
        data=data,
        caption=f"Severity of one image ({result['records'][0]['id']}) under more and more blur. {_HERE}",
    )


@target("fig8", "Ordering accuracy over blur, against the noise")
def fig8(study: Study) -> Produced:
    figure, (axis,) = panels(1, width=4.6)
    data = {}
    for std in _levels(study):
        accuracies = [row["accuracy"] for row in study.order(noise_std=std)["records"]]
        data[f"{std:g}"] = [float(np.mean(accuracies)), *interval(accuracies)]
    means, low, high = np.array([*data.values()]).T
    axis.errorbar(_levels(study), means, yerr=[means - low, high - means], marker="o", capsize=2, color="C0")
    axis.axvspan(0, TRAINED, color="C2", alpha=0.12, label="noise in training")
    axis.axhline(0.5, color="grey", linestyle="--", linewidth=1, label="guessing")
    axis.set(xlabel="noise std of the measurements", ylabel="ordering accuracy", ylim=(0.4, 1.02))
    axis.legend(fontsize=8)
    return Produced(figures={"figure": figure}, data=data, caption=f"Ordering accuracy against noise. {_HERE}")


@target("fig9", "Restorations against the noise")
def fig9(study: Study) -> Produced:
    methods = ["flash(proximal)", *map(study.own, ("flash(latent-dps)", "ccdf(latent-dps)")), "ae", "swinir"]
    found = {std: study.evaluate(methods, ["gaussian-blur"], noise_std=std) for std in _levels(study)}
    figure, axes = panels(2)
    for n, method in enumerate(methods):
        for axis, name in zip(axes, ("lpips", "psnr"), strict=True):
            draw(axis, [(std, cells[n]) for std, cells in found.items()], name, method, color=f"C{n}")
            axis.set_xlabel("noise std of the measurements")
    axes[0].legend(fontsize=7)
    means = {f"{std:g}": means_of(cells) for std, cells in found.items()}
    rows = {f"{method}, noise {std}": row for std, by_method in means.items() for method, row in by_method.items()}
    return Produced(
        {"table": wide(rows, ("psnr", "lpips", "nfe"))},
        {"figure": figure},
        means,
        f"Restoration of Gaussian blur against the noise, which the methods are told. {_HERE}",
    )


@target("fig10", "Starts against the noise")
def fig10(study: Study) -> Produced:
    figure, (axis,) = panels(1, width=4.6)
    method = study.own("flash(latent-dps)")
    starts = {
        std: list(study.evaluate([method], ["gaussian-blur"], noise_std=std)[0].values("start_step").values())
        for std in _levels(study)
    }
    axis.boxplot([*starts.values()], tick_labels=[f"{std:g}" for std in starts], showfliers=True)
    axis.set(xlabel="noise std of the measurements", ylabel="start, of 1000 times")
    return Produced(
        figures={"figure": figure},
        data={f"{std:g}": values for std, values in starts.items()},
        caption=f"Where {method} starts, against the noise: more noise, more steps. {_HERE}",
    )
