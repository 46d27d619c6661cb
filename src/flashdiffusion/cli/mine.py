"""`flashdiffusion mine`."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from flashdiffusion.cli.command import option
from flashdiffusion.cli.inputs import Failures, noted
from flashdiffusion.cli.options import Blind, Limit, ModelOptions, Out, Resume, Seed, TaskOptions
from flashdiffusion.cli.ordering import LevelOptions
from flashdiffusion.cli.tables import shown, write_rows
from flashdiffusion.errors import InputError, check_name, counted

if TYPE_CHECKING:
    from flashdiffusion.data import ImageDataset
    from flashdiffusion.experiments.mining import Conditions, Mined, Mining
    from flashdiffusion.jobs.journal import Journal


@dataclass(frozen=True)
class RankOptions:
    """In which order images are given, and how many are listed."""

    rank: Annotated[
        str,
        option(
            "image: by what the image itself contributes. total: by the severity of the measurement that `evaluate` "
            "makes of it. true: as image, of the true severity, the encoder's actual error."
        ),
    ] = "image"
    keep_hardest: Annotated[str, option("Images in hardest.txt: a count, or a share.", metavar="COUNT|PERCENT%")] = (
        "10%"
    )


def command(
    images: TaskOptions,
    out: Out,
    levels: LevelOptions,
    ranking: RankOptions,
    model: ModelOptions,
    limit: Limit = None,
    resume: Resume = False,
    blind: Blind = False,
    seed: Seed = 0,
) -> int:
    """Which images are hard? Ranks them by severity, split into what the degradation and what the image contributes.

    hardest.txt in the output folder is itself data: `train` and `evaluate` take it as --data.
    """
    from flashdiffusion.data import ensure_directory
    from flashdiffusion.data.files import unique
    from flashdiffusion.experiments.mining import LEVELS, RANKS, Conditions, Mining, how_many, measure_severities
    from flashdiffusion.experiments.ordering import check_noise
    from flashdiffusion.jobs.evaluate import open_data
    from flashdiffusion.jobs.journal import Journal
    from flashdiffusion.jobs.lock import locked
    from flashdiffusion.jobs.records import made_by
    from flashdiffusion.physics import get_task
    from flashdiffusion.reports.statistics import TRIAL

    check_name("rank", ranking.rank, RANKS)
    check_noise("noise std", images.noise_std)
    task = get_task(images.task)
    values = levels.values(task, images.noise_std, LEVELS)
    conditions = Conditions(task, values, levels.over, images.noise_std, seed)
    about = model.about() | images.about() | {"over": levels.over, "values": values, "limit": limit}
    about |= {"seed": seed, "blind": blind}
    ensure_directory(out)
    pipeline = model.choice().open()
    data = noted(open_data(pipeline, images.data, limit, cache_gib=0, split=images.split))
    kept, names, failures = how_many(ranking.keep_hardest, len(data)), unique(data.ids), Failures()
    with locked(out / "mine.json"):
        journal = Journal(out / "mine.json", about, resume)
        failed = _measure(journal, names, data, partial(measure_severities, pipeline, data, conditions, blind=blind))
        failures.reasons += failed.items()
        if places := [place for place, name in enumerate(names) if name in journal.done]:
            records = [journal.done[names[place]] for place in places]
            mining = Mining(records, places)
            summary = mining.summary(conditions)
            _write(mining, ranking.rank, kept, data, conditions, out)
            result = made_by(pipeline.prior.device, about) | {"rank": ranking.rank} | summary
            reasons = [{"id": name, "reason": reason} for name, reason in failed.items()]
            journal.finish(result | {"records": records, "failed": reasons})
            count = counted(len(places), "image")
            print(f"{images.task}, {count}, {len(values)} levels; written to {out}\n{_said(summary)}")
            if len(places) < TRIAL:
                print(f"Of {count}: a trial, not a result.")
    return failures.finish(len(data))


def _measure(
    journal: "Journal",
    names: Sequence[str],
    data: "ImageDataset",
    measure: "Callable[[list[int]], Iterator[Mined]]",
) -> dict[str, str]:
    """Measure the images that are not in the journal, or are no longer what they were; why others failed, by name."""
    from flashdiffusion.progress import tracked

    kept, missing, failed = dict[str, dict[str, Any]](), list[int](), dict[str, str]()
    for place, name in enumerate(names):
        row = journal.done.get(name)
        if row is not None and row.get("digest") == _digest(data, place):
            kept[name] = row
        else:
            missing.append(place)
    journal.done = kept
    try:
        for one in tracked(measure(missing), len(missing), "measuring"):
            name = names[one.index]
            if one.failed is None:
                journal.add({"id": name} | one.to_json() | {"digest": data.digest(one.index)})
            else:
                failed[name] = one.failed
    except KeyboardInterrupt:
        done = f"{len(journal.done)} of {len(names)} images are done"
        print(f"\nflashdiffusion: interrupted: {done}; --resume continues", file=sys.stderr)
        raise
    finally:
        journal.close()
    return failed


def _digest(data: "ImageDataset", place: int) -> str | None:
    try:
        return data.digest(place)
    except InputError:  # it says so when it is measured
        return None


def _write(mining: "Mining", rank: str, kept: int, data: "ImageDataset", conditions: "Conditions", out: Path) -> None:
    from flashdiffusion.experiments.mining_plots import draw_sheet, plot_effects

    order = mining.order(rank)
    table = mining.table(order, conditions)
    write_rows(out / "ranking.csv", [*table[0]], table)
    data.write_list(out / "hardest.txt", [mining.places[row] for row in order[:kept]])
    draw_sheet(mining, order, rank, data, conditions, out / "sheet.png")
    plot_effects(mining, order, conditions, out / "effects.png")


def _said(summary: Mapping[str, Any]) -> str:
    """The summary in a few lines."""
    shares = ", ".join(f"{name} {share or 0:.1%}" for name, share in summary["shares"].items())
    low, high = (shown(summary["image_effect"][name]) for name in ("p10", "p90"))
    lines = [
        f"shares of the variance of log severity: {shares}",
        f"image effects, 10th to 90th percentile: {low} to {high}",
        f"rank correlation of image effects with the true ones: {shown(summary.get('spearman'))}",
    ]
    return "\n".join(f"  {line}" for line in lines)
