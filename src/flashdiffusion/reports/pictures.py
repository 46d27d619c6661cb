"""The pictures that runs kept: which images a page shows, and their pictures as small data URIs."""

import base64
import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from flashdiffusion.data.images import read_image
from flashdiffusion.errors import InputError
from flashdiffusion.metrics import all_metrics
from flashdiffusion.reports.plots import colour
from flashdiffusion.reports.runs import Run, TaskRuns

QUALITY = 90
LOSSLESS = 64  # pixels a side up to which all is kept
LARGEST = 512  # pixels a side above which a picture is reduced
SHARED = {"clean": "truth", "measured": "measurement", "estimate": "estimate"}  # by more than one run, often
TOLD = {"severity": "severity", "start_step": "start step", "nfe": "NFE"}  # beside the metrics


@dataclass(frozen=True)
class Tile:
    """A picture with what stands below it. picture: its place in the album; None where the run failed."""

    title: str
    picture: int | None
    run: int | None = None  # number of the run that restored it
    told: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """An image: how hard it is (more is harder), its quality by the number of each run, its pictures."""

    id: str
    degradation: str
    hardness: float | None
    quality: dict[int, float]
    tiles: list[Tile]


class Album:
    """Pictures of the images that a page shows, each once however many runs share it.

    Args:
        limit: number of images of all tasks together: of each task in turn the hardest, the easiest, and those with
            the best and the worst gain over the first run.
    """

    def __init__(self, tasks: Sequence[TaskRuns], limit: int) -> None:
        self.pictures: list[str] = []
        self.left_out: dict[Path, str] = {}  # why a file cannot be shown
        self.reduced = 0
        self._read: dict[Path, int | None] = {}
        self._known: dict[bytes, int] = {}
        self.kept = [_chosen(task) for task in tasks]
        turns = chain.from_iterable(zip_longest(*([(i, id) for id in ids] for i, ids in enumerate(self.kept))))
        shown = list(islice(filter(None, turns), limit))
        self.rows = [list(self._rows(task, [id for i, id in shown if i == at])) for at, task in enumerate(tasks)]

    def data(self, tasks: Sequence[TaskRuns]) -> dict[str, Any]:
        """What the page's program needs, as plain values."""
        about = [
            {
                "name": task.name,
                "runs": [{"number": run.number, "label": run.label} for run in task.measured],
                "colours": {run.number: colour(run) for run in task.runs},
                "kept": len(kept),
                "metric": _metric(task),
                "rows": [asdict(row) for row in rows],
            }
            for task, kept, rows in zip(tasks, self.kept, self.rows, strict=True)
            if rows
        ]
        return {"tasks": about, "pictures": self.pictures}

    def _rows(self, task: TaskRuns, ids: Sequence[str]) -> Iterator[Row]:
        hardness, quality = _hardness(task), {run.number: _quality(run, task) for run in task.measured}
        for id in ids:
            degradation = next((found for run in task.runs if (found := _record(run, id).get("degradation"))), "")
            tiles = list(self._tiles(task, id))
            own = {number: its[id] for number, its in quality.items() if id in its}
            yield Row(id, _text(degradation), hardness.get(id), own, tiles)

    def _tiles(self, task: TaskRuns, id: str) -> Iterator[Tile]:
        for kind, title in SHARED.items():
            found: dict[int, list[Run]] = {}
            for run in task.runs:
                if (picture := self._picture(run, id, kind)) is not None:
                    found.setdefault(picture, []).append(run)
            for picture, runs in found.items():
                whose = f" of {', '.join(str(run.number) for run in runs)}" if len(found) > 1 else ""
                before = _record(runs[0], id).get("measurement_psnr") if kind == "measured" else None
                yield Tile(title + whose, picture, None, [("PSNR", f"{before:.2f}")] if before is not None else [])
        for run in task.runs:
            picture = self._picture(run, id, "restored")
            if id in run.cell.failed:
                yield Tile(run.label, None, run.number, [("failed", run.cell.failed[id])])
            elif picture is not None:
                yield Tile(run.label, picture, run.number, list(_told(task, run, id)))

    def _picture(self, run: Run, id: str, kind: str) -> int | None:
        file = run.cell.image(id, kind)
        if file is None:
            return None
        if file not in self._read:
            try:
                self._read[file] = self._add(file)
            except InputError as error:
                self._read[file] = None
                self.left_out[file] = str(error)
        return self._read[file]

    def _add(self, file: Path) -> int:
        image = read_image(file).convert("RGB")
        key = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
        if key not in self._known:
            if max(image.size) > LARGEST:
                image.thumbnail((LARGEST, LARGEST))
                self.reduced += 1
            stream = io.BytesIO()
            image.save(stream, "WEBP", quality=QUALITY, lossless=max(image.size) <= LOSSLESS)
            self._known[key] = len(self.pictures)
            self.pictures.append(f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}")
        return self._known[key]


def _chosen(task: TaskRuns) -> list[str]:
    """Images with pictures, those first that say most: by turns the hardest, easiest, best and worst that is left."""
    every = dict.fromkeys(chain.from_iterable((*run.cell.records, *run.cell.failed) for run in task.runs))
    ids = [id for id in every if any(run.cell.image(id, "restored") for run in task.runs)]
    hardness = _hardness(task)
    first, *others = [_quality(run, task) for run in task.measured] or [{}]
    sign = 1 if (metric := _metric(task)) and metric["higher"] else -1
    gains = {id: [sign * (its[id] - first[id]) for its in others if id in its and id in first] for id in ids}
    orders = (
        sorted(ids, key=lambda id: hardness.get(id, -math.inf), reverse=True),
        sorted(ids, key=lambda id: hardness.get(id, math.inf)),
        sorted(ids, key=lambda id: max(gains[id], default=-math.inf), reverse=True),
        sorted(ids, key=lambda id: min(gains[id], default=math.inf)),
    )
    return list(dict.fromkeys(chain.from_iterable(zip(*orders, strict=True))))


def _metric(task: TaskRuns) -> dict[str, Any] | None:
    """What a gain is measured in: LPIPS, else PSNR, else the first that there is."""
    name = next((one for one in ("lpips", "psnr", *task.metrics) if one in task.metrics), None)
    if name is None:
        return None
    metric = all_metrics()[name]
    return {"name": name, "heading": metric.heading, "higher": metric.higher, "digits": metric.digits}


def _quality(run: Run, task: TaskRuns) -> dict[str, float]:
    metric = _metric(task)
    return run.cell.values(metric["name"]) if metric else {}


def _hardness(task: TaskRuns) -> dict[str, float]:
    """Severity of each image as the first run saw it, else the true one, else how far the measurement is off."""
    found: dict[str, float] = {}
    for figure, sign in (("measurement_psnr", -1), ("true_severity", 1), ("severity", 1)):
        for run in reversed(task.runs):
            found |= {id: sign * value for id, value in run.cell.values(figure).items()}
    return found


def _record(run: Run, id: str) -> Mapping[str, Any]:
    return run.cell.records.get(id, {})


def _told(task: TaskRuns, run: Run, id: str) -> Iterator[tuple[str, str]]:
    """Headings and figures of an image that a run restored."""
    digits = {name: (title, ".3g") for name, title in TOLD.items()}
    digits |= {name: (all_metrics()[name].heading, task.columns[name]) for name in task.metrics}
    for name, (title, form) in digits.items():
        if (value := _record(run, id).get(name)) is not None:
            yield title, format(value, form)


def _text(degradation: Any) -> str:
    """A degradation in one line: its name, then its parameters."""
    if not isinstance(degradation, dict):
        return str(degradation)
    more = dict(degradation)
    name = more.pop("physics", None)
    return ", ".join([*([str(name)] if name else []), *(f"{key} {value}" for key, value in more.items())])
