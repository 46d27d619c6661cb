"""Tables 3 and 4: a severity encoder for another degradation than the one at hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flashdiffusion.reports.reproduction.plotting import SIGMA, panels
from flashdiffusion.reports.reproduction.tables import FIGURES
from flashdiffusion.reports.reproduction.target import Produced, Study, paper, target, wide
from flashdiffusion.reports.tables import Table

KINDS = ("gaussian-blur", "nonlinear-blur")
SEVERE = 0.3  # of the range of levels, from where the paper's encoder can be trusted
_HERE = (
    "The paper has an encoder for each degradation; the embedded one knows all of them, and is told the wrong one here."
)


@target("table3", "Ordering accuracy of an encoder for another degradation")
def table3(study: Study) -> Produced:
    result = study.order(told="nonlinear-blur")
    levels = np.array([next(iter(row.values())) for row in result["levels"]])
    severities = np.array([row["severities"] for row in result["records"]])
    rows = {}
    for name, first in (("0 to 1", 0.0), ("0.3 to 1", SEVERE)):
        used = severities[:, levels >= levels[0] + first * (levels[-1] - levels[0]) - 1e-9]
        above = np.triu_indices(used.shape[1], 1)
        rows[name] = float((used[:, None, :] > used[:, :, None])[:, above[0], above[1]].mean())
    figure, (axis,) = panels(1, width=4.6)
    axis.plot(levels, np.sqrt(severities).T, color="grey", alpha=0.25, linewidth=0.8)
    axis.plot(levels, np.sqrt(severities).mean(axis=0), color="black", linewidth=2)
    axis.set(xlabel="std of the blur in pixels", ylabel=SIGMA)
    table = [[name, f"{value:.4f}", f"{paper('table3')[name]:.4f}"] for name, value in rows.items()]
    return Produced(
        {"table3": Table(["range of blur", "ordering accuracy", "the paper's"], table)},
        {"figure": figure},
        rows,
        f"Ordering accuracy over Gaussian blur of an encoder that takes it for nonlinear blur. {_HERE}",
    )


@target("table4", "Restored by an encoder for another degradation")
def table4(study: Study) -> Produced:
    means: dict[str, dict[str, Mapping[str, Any]]] = {}
    for told in KINDS:
        for cell in study.evaluate([study.own("flash(latent-dps)"), "flash(proximal)"], KINDS, told=told):
            means.setdefault(f"{cell.method}, told {told}", {})[cell.task] = cell.mean
    return Produced(
        {"table4": wide(means, FIGURES), "paper": wide(paper("table4"), FIGURES[:3], "The paper's, by its encoder.")},
        data={"means": means},
        caption=f"Restoration of two degradations by an encoder that takes all for one of them. {_HERE} The solver "
        "knows the right operator.",
    )
