"""`flashdiffusion reproduce`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashdiffusion.cli import options, ordering
from flashdiffusion.cli.cells import ReportOptions, TasksOptions, measure_cells
from flashdiffusion.cli.command import option
from flashdiffusion.errors import InputError, check_name, counted, note

if TYPE_CHECKING:
    from flashdiffusion.reports import Cell

QUICK_IMAGES, QUICK_STEPS, QUICK_LEVELS = 2, 10, 4
ORDERED = 100  # images of an ordering, unless a limit is given
ALL = "all"


@dataclass(frozen=True)
class Measured:
    """Measures by the commands `evaluate` and `ordering`, into folders that targets share; see `Study`.

    out: holds a folder of runs for each noise, and what the targets come to. limit: images, None for all. failures:
    images that failed, as they come.
    """

    data: options.DataOptions
    report: ReportOptions
    model: options.ModelOptions
    run: options.RunOptions
    out: Path
    limit: int | None
    seed: int
    baseline_steps: int | None
    quick: bool
    failures: dict[str, str] = field(default_factory=dict)

    def evaluate(
        self, methods: Sequence[str], tasks: Sequence[str], noise_std: float = 0.05, told: str | None = None
    ) -> "list[Cell]":
        folder = self._folder(noise_std, told)
        report = replace(self.report, told=told)
        images = TasksOptions(self.data.data, self.data.split, [*tasks], noise_std)
        chosen = options.MethodsOptions(method=[*methods])
        found = measure_cells(images, folder, chosen, report, self.model, self.run, self.limit, self.seed)
        self.failures.update(found.failures.reasons)
        if len(found.asked) < len(methods) * len(tasks):
            reason = next(iter(found.failures.reasons), ("", "no image could be read"))[1]
            raise InputError(
                f"of {', '.join(methods)} on {', '.join(tasks)} one has no image that was measured: {reason}"
            )
        return found.asked

    def order(self, noise_std: float = 0.05, told: str | None = None) -> Mapping[str, Any]:
        from flashdiffusion.data import ensure_directory

        file = ensure_directory(self._folder(noise_std, told)) / "ordering.json"
        levels = QUICK_LEVELS if self.quick else None
        images = options.TaskOptions(self.data.data, self.data.split, "gaussian-blur", noise_std)
        limit = ORDERED if self.limit is None else self.limit
        about = self.model.about() | images.about() | {"seed": self.seed, "told": told}
        if not _holds(file, about, limit, levels):
            ordering.command(
                images, file, self.model, ordering.LevelOptions(levels=levels), limit, told=told, seed=self.seed
            )
        if not file.exists():
            raise InputError(f"none of the first {limit} images can be read")
        result: dict[str, Any] = json.loads(file.read_text())
        rows = result["records"][:limit]
        return result | {"records": rows, "ordering_accuracy": sum(row["accuracy"] for row in rows) / len(rows)}

    def plain(self, solver: str) -> str:
        return solver if self.baseline_steps is None else f"{solver}:steps={self.baseline_steps}"

    def own(self, method: str) -> str:
        return f"{method}:steps={QUICK_STEPS}" if self.quick else method

    def fixed(self, start_step: int) -> str:
        grid = f",steps={QUICK_STEPS}" if self.quick else ""
        return f"ccdf(latent-dps):start_step={start_step}{grid}"

    def _folder(self, noise_std: float, told: str | None) -> Path:
        return self.out / "runs" / (f"noise-{noise_std:g}" + (f"-told-{told}" if told else ""))


def command(
    what: Annotated[
        list[str],
        typer.Argument(metavar="WHAT...", help="table1 to table6, fig2, fig3, fig4, fig6 to fig10, fig12; all."),
    ],
    data: options.DataOptions,
    out: options.Out,
    report: options.QualityOptions,
    model: options.ModelOptions,
    run: options.RunOptions,
    quick: Annotated[bool, option("A trial of minutes: 2 images, coarse grids, few levels.", "--quick")] = False,
    limit: options.Limit = None,
    baseline_steps: Annotated[
        int | None, option("Time grid of the solvers from pure noise; default: all their steps.")
    ] = None,
    seed: options.Seed = 0,
) -> int:
    """Make tables and figures of the paper anew: numbers, plots, LaTeX and Markdown, beside the paper's own.

    What an earlier run measured is not measured again.
    """
    from flashdiffusion.reports.reproduction import TARGETS

    if ALL in what:
        what = [*TARGETS]
    for name in what:
        check_name("table or figure", name, [*TARGETS, ALL])
    if baseline_steps is not None and baseline_steps < 1:
        raise InputError(f"baseline-steps is {baseline_steps}; expected at least 1")
    if quick:
        limit = QUICK_IMAGES if limit is None else limit
        baseline_steps = QUICK_STEPS if baseline_steps is None else baseline_steps
    kept = ReportOptions(**vars(report))
    study = Measured(data, kept, model, replace(run, resume=True), out, limit, seed, baseline_steps, quick)
    # Grids and images of a quick run are other ones, so it has a folder of its own.
    study = replace(study, out=out / "quick") if quick else study
    about = _caption(study, report)
    for name in what:
        target = TARGETS[name]
        produced = target.make(study)
        written = produced.write(study.out / name, about)
        print(f"{name}: {target.title}\n{produced.caption}\n")
        for table in produced.tables.values():
            print(table.markdown())
        print(f"{len(written)} files in {study.out / name}\n")
    for image, reason in study.failures.items():
        note(f"{image}: {reason}")
    return 1 if study.failures else 0


def _caption(study: Measured, report: options.QualityOptions) -> str:
    """How everything was measured, in a sentence or two."""
    images = "all images" if study.limit is None else f"the first {counted(study.limit, 'image')}"
    net = report.about().get("lpips_net")
    steps = "" if study.baseline_steps is None else f" Solvers from pure noise: grids of {study.baseline_steps} steps."
    lpips = f" LPIPS is {net}'s." if net else " LPIPS was not measured."
    where = ", ".join(map(str, study.data.data))
    return (
        f"Model {study.model.model or 'faces-128'}, {images} of {where}, noise 0.05 unless said otherwise, seed "
        f"{study.seed}.{lpips}{steps}{' A quick trial, no result.' if study.quick else ''}"
    )


def _holds(file: Path, about: Mapping[str, Any], limit: int, levels: int | None) -> bool:
    """Whether an earlier ordering is the one that is wanted; raises InputError for one of something else."""
    from flashdiffusion.jobs.journal import differences

    if not file.exists():
        return False
    earlier = json.loads(file.read_text())
    if other := differences(earlier, dict(about)):
        raise InputError(f"{file} holds a run with another {other}; choose another --out")
    return earlier.get("limit", len(earlier["records"])) >= limit and levels in (None, len(earlier["levels"]))
