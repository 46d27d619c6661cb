"""LPIPS against arithmetic for every method and task, from results that are there.

cd benchmarks/results; python ../plots.py table thousand proximal --out ../../docs/quality.svg
"""

import argparse
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from common import TASKS
from flashdiffusion.reports import Cell, read_cells
from flashdiffusion.reports.statistics import figures_of

# Methods by the name that a reader looks for, with a colour for each family.
SHOWN = {
    "flash(proximal)": ("Flash(proximal)", "#d62728"),
    "flash(latent-dps)": ("Flash(Latent-DPS)", "#1f77b4"),
    "flash(resample)": ("Flash(ReSample)", "#9467bd"),
    "ccdf(latent-dps)": ("CCDF, 50 steps", "#2ca02c"),
    "gml-dps": ("GML-DPS, 200 steps", "#7f7f7f"),
    "psld": ("PSLD, 1000 steps", "#a0694f"),
    "latent-dps": ("Latent-DPS, 1000 steps", "#e377c2"),
    "ae": ("estimate alone", "#17a2b8"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", type=Path, help="folders of results")
    parser.add_argument("--out", type=Path, required=True, help="picture (.svg)")
    given = parser.parse_args()
    cells: dict[tuple[str, str], Cell] = {}
    for cell in read_cells(given.places):
        if (key := (cell.task, cell.method.partition(":")[0])) in cells:
            raise SystemExit(f"{cell.path} and {cells[key].path} are both {' on '.join(key[::-1])}; give one of them")
        cells[key] = cell
    with rc_context({"svg.hashsalt": "flashdiffusion", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9.6, 6.4), layout="constrained")
        for axis, (task, title) in zip(figure.subplots(2, 2).flat, TASKS.items(), strict=True):
            for method, (label, colour) in SHOWN.items():
                if (cell := cells.get((task, method))) is None:
                    continue
                x, y = (figures_of(cell)[name] for name in ("gflop", "lpips"))
                spread = [[y.mean - y.low], [y.high - y.mean]]
                axis.errorbar(x.mean, y.mean, spread, fmt="o", color=colour, label=label, capsize=2)
            axis.set(title=title, xscale="log", yscale="log", xlabel="GFLOP per image", ylabel="LPIPS, lower is better")
            axis.set(ylim=(0.05, 0.8), yticks=(0.05, 0.1, 0.2, 0.4, 0.8))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
            axis.grid(alpha=0.2, which="both")
        handles, labels = axis.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        figure.savefig(given.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
