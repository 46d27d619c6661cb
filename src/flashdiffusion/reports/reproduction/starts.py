"""Figures 2, 6 and 12: an adaptive start against fixed ones, for easy and hard images."""

import numpy as np

from flashdiffusion.metrics import METRICS
from flashdiffusion.reports.cells import Cell
from flashdiffusion.reports.reproduction.plotting import draw, heading, panels
from flashdiffusion.reports.reproduction.target import Produced, Study, means_of, target, wide

STARTS, FEW = (10, 50, 100, 200, 500), (20, 100)  # times of the full schedule of 1000


def _measured(study: Study, task: str) -> tuple[Cell, list[tuple[int, Cell]]]:
    """Flash(Latent-DPS), and CCDF-L by its fixed start."""
    starts = FEW if study.quick else STARTS
    flash, *fixed = study.evaluate([study.own("flash(latent-dps)"), *(study.fixed(start) for start in starts)], [task])
    return flash, list(zip(starts, fixed, strict=True))


def _metric(cell: Cell) -> str:
    return "lpips" if cell.values("lpips") else "psnr"


def _against_fixed(study: Study, task: str) -> Produced:
    flash, fixed = _measured(study, task)
    (proximal,) = study.evaluate(["flash(proximal)"], [task])
    figure, axes = panels(3)
    metric = _metric(flash)
    for axis, name in zip(axes, dict.fromkeys((metric, "psnr", "ssim")), strict=False):
        draw(axis, [(cell.mean["nfe"], cell) for _, cell in fixed], name, "CCDF-L, fixed starts")
        draw(axis, [(flash.mean["nfe"], flash)], name, "Flash(Latent-DPS)", color="C3")
        draw(axis, [(proximal.mean["nfe"], proximal)], name, "Flash(proximal)", color="C2")
        axis.set_xlabel("NFE")
    axes[0].legend(fontsize=8)
    starts = list(flash.values("start_step").values())
    axes[2].hist(starts, bins=min(20, max(3, len(starts) // 3)), color="C3", alpha=0.8)
    axes[2].set(xlabel="start, of 1000 times", ylabel="images")
    cells = [flash, proximal, *(cell for _, cell in fixed)]
    pick = max if METRICS[metric].higher else min
    start, _ = pick(fixed, key=lambda one: one[1].mean[metric])
    return Produced(
        {"table": wide(means_of(cells), ("psnr", "lpips", "nfe"))},
        {"figure": figure},
        {"means": means_of(cells), "starts": starts},
        f"One start for all images (CCDF-L) against a start for each, on {task}. The best fixed start, by "
        f"{heading(metric)}, is {start}. Right: the starts that Flash takes.",
    )


@target("fig6", "Adaptive against fixed starts, Gaussian blur")
def fig6(study: Study) -> Produced:
    return _against_fixed(study, "gaussian-blur")


@target("fig12", "Adaptive against fixed starts, nonlinear blur")
def fig12(study: Study) -> Produced:
    return _against_fixed(study, "nonlinear-blur")


@target("fig2", "Quality against the number of steps, for easy and hard images")
def fig2(study: Study) -> Produced:
    flash, fixed = _measured(study, "gaussian-blur")
    severities = flash.values("severity")
    everywhere = set.intersection(*({*cell.records} for _, cell in fixed))
    ranked = sorted(everywhere & severities.keys(), key=lambda id: severities[id])
    size = max(1, len(ranked) // 4)
    groups = {"easiest quarter": ranked[:size], "hardest quarter": ranked[-size:]}
    metric = _metric(flash)
    figure, (axis,) = panels(1, width=4.6)
    data: dict[str, list[list[float]]] = {}
    for color, (name, ids) in zip(("C0", "C3"), groups.items(), strict=True):
        curve = [(cell.mean["nfe"], float(np.mean([cell.values(metric)[id] for id in ids]))) for _, cell in fixed]
        own = [float(np.mean([flash.values(one)[id] for id in ids])) for one in ("nfe", metric)]
        axis.plot(*zip(*curve, strict=True), marker="o", color=color, label=name)
        axis.plot(*own, marker="*", markersize=14, color=color, linestyle="none")
        data[name] = [[*point] for point in (*curve, own)]
    axis.set(xlabel="NFE", ylabel=heading(metric))
    axis.legend(fontsize=8)
    return Produced(
        figures={"figure": figure},
        data=data,
        caption="How many steps are best depends on the image: CCDF-L from fixed starts, over the quarter of the "
        "images that are least and most severe to the encoder. Stars: where Flash(Latent-DPS) starts them.",
    )
