"""Tables 1, 2, 5 and 6: every method, what adaptation brings, and DDIM's grids."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flashdiffusion.metrics import METRICS
from flashdiffusion.reports.cells import Cell
from flashdiffusion.reports.reproduction.target import TASKS, Produced, Study, means_of, paper, target, wide
from flashdiffusion.reports.statistics import compare_cells
from flashdiffusion.reports.summary import comparison_table

SOLVERS = ("latent-dps", "psld", "gml-dps", "resample")
WITHOUT_STEPS = ("ae", "swinir")
FIGURES = ("psnr", "ssim", "lpips", "nfe")
_PAPER = "The paper's: FFHQ 256x256, another prior and another test set."
_WEAK = (
    "Latent-DPS and PSLD from noise are as good as the prior's highest noise levels are, and on a short grid leave the "
    "latents that the decoder knows."
)


@target("table1", "Every method on every task")
def table1(study: Study) -> Produced:
    pairs = [(study.plain(solver), study.own(f"flash({solver})")) for solver in SOLVERS]
    methods = [
        "flash(proximal)",
        *(name for pair in pairs for name in pair),
        study.own("ccdf(latent-dps)"),
        *WITHOUT_STEPS,
    ]
    cells = study.evaluate(methods, [*TASKS])
    by_name = {(cell.task, cell.method): cell for cell in cells}
    compared = []
    for task in TASKS:
        for plain, flash in pairs:
            own, other = by_name[task, flash], by_name[task, plain]
            compared += [one for metric in ("psnr", "lpips") if (one := compare_cells(own, other, metric)) is not None]
    better: dict[tuple[str, str], bool] = {}
    for one in compared:
        key = one.task, one.method
        better[key] = better.get(key, True) and one.mean_is_better
    by = " and ".join(METRICS[name].heading for name in dict.fromkeys(one.metric for one in compared))
    return Produced(
        {
            "table1": wide(means_of(cells), FIGURES),
            "gains": comparison_table(compared, "Flash(X) less X on the same images."),
            "paper": wide(paper("table1"), FIGURES, _PAPER),
        },
        data={"means": means_of(cells), "gains": [asdict(one) for one in compared]},
        caption=f"Every method on every task. Flash(X) has the better mean {by} in {sum(better.values())} of "
        f"{len(better)} cells. {_WEAK} DPS and CCDF-DPS need a pixel-space model, which is not embedded.",
    )


@target("table2", "What adaptation and the latent space bring")
def table2(study: Study) -> Produced:
    tasks, found = ("gaussian-blur", "nonlinear-blur"), []
    flash = study.evaluate([study.own("flash(latent-dps)")], tasks)
    for adaptive in flash:
        fixed = study.evaluate([study.fixed(max(1, round(adaptive.mean["start_step"])))], [adaptive.task])
        found.append((adaptive, fixed[0]))
    means = {
        "adaptive, latent": {one.task: one.mean for one, _ in found},
        "fixed, latent": {one.task: one.mean for _, one in found},
    }
    compared = [
        one for a, b in found for metric in ("psnr", "lpips") if (one := compare_cells(a, b, metric)) is not None
    ]
    return Produced(
        {
            "table2": wide(means, FIGURES),
            "gains": comparison_table(compared),
            "paper": wide(paper("table2"), FIGURES[:3], _PAPER),
        },
        data={"means": means, "gains": [asdict(one) for one in compared]},
        caption="What adaptation brings: Flash(Latent-DPS) against CCDF-L, which starts every image at the mean of "
        "Flash's starts, from the regressor's estimate as in the paper, with settings of its own. The row of pixels "
        "needs a pixel-space model, which is not embedded.",
    )


@target("table5", "DDIM: grids and randomness")
def table5(study: Study) -> Produced:
    grids = ((100, 0), (100, 1), (20, 0), (20, 1)) if study.quick else ((1000, 1), (100, 0), (100, 1), (20, 0), (20, 1))
    names = {f"steps={n},delta={delta}": f"flash(latent-dps):steps={n},delta={delta}" for n, delta in grids}
    return _grids("table5", study.evaluate([*names.values()], ["gaussian-blur"]), names, "Flash(Latent-DPS)")


@target("table6", "DDIM from pure noise")
def table6(study: Study) -> Produced:
    names = {f"steps=100,delta={delta}": f"latent-dps:steps=100,delta={delta}" for delta in (0, 1)}
    cells = study.evaluate([*names.values()], ["gaussian-blur", "nonlinear-blur"])
    return _grids("table6", cells, names, "Latent-DPS from pure noise")


def _grids(name: str, cells: Sequence[Cell], names: dict[str, str], method: str) -> Produced:
    labels = list(names)
    means: dict[str, dict[str, Mapping[str, Any]]] = {label: {} for label in labels}
    for n, cell in enumerate(cells):
        means[labels[n % len(labels)]][cell.task] = cell.mean
    return Produced(
        {name: wide(means, FIGURES), "paper": wide(paper(name), FIGURES, _PAPER)},
        data={"means": means},
        caption=f"{method} with DDIM steps: the length N of the whole grid, and delta, from 0 (deterministic) to 1 (as "
        "DDPM).",
    )
