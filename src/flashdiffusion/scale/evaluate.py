"""A method measured on a task, picture by picture."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from flashdiffusion.data import PictureDataset, encode_picture
from flashdiffusion.errors import InputError
from flashdiffusion.experiments import Evaluated, evaluate
from flashdiffusion.experiments.evaluate import BOUND, check_options
from flashdiffusion.methods import Settings, parse_method
from flashdiffusion.metrics import LPIPS
from flashdiffusion.physics import get_task
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.scale.job import Done, Item, ModelChoice


@dataclass(frozen=True)
class EvaluateJob:
    """Measure a method on a task; an item's place is that of its picture in the data, its path the picture's id there.

    data, limit: the pictures, see `PictureDataset`. lpips: weights of LPIPS. batch_size: pictures that are loaded
    together. shown: of the first so many pictures, PNGs are given of what is clean, measured and restored.
    """

    data: tuple[str, ...]
    model: ModelChoice = field(default_factory=ModelChoice)
    task: str = "gaussian-blur"
    method: str = "flash(latent-dps)"
    noise_std: float = 0.05
    seed: int = 0
    settings: Settings = field(default_factory=Settings)
    limit: int | None = None
    lpips: str | None = None
    batch_size: int = 64
    capacity: int | None = None
    shown: int = 0
    progress: bool = False

    def open(self) -> "EvaluateWorker":
        """Load the model and list the data.

        Raises:
            InputError: options that no picture can use.
        """
        return EvaluateWorker(self)


class EvaluateWorker:
    """An opened job."""

    def __init__(self, job: EvaluateJob) -> None:
        self.job = job
        self.task = get_task(job.task)
        start, solver = ("", "") if job.method == BOUND else parse_method(job.method, [BOUND])
        check_options(self.task, solver, job.noise_std, job.batch_size, job.capacity)
        self.lpips = LPIPS.from_file(job.lpips) if job.lpips else None
        self.pipeline = job.model.open()
        self.data = open_data(self.pipeline, job.data, job.limit, cache_gib=0)  # each picture is read once
        if job.method != BOUND:
            self.pipeline.method(solver, start, job.settings)

    def __call__(self, items: Iterable[Item]) -> Iterator[Done]:
        """Evaluate the items; each is given once, as soon as it is done."""
        job, names, moved = self.job, dict[int, str](), deque[Done]()

        def rows() -> Iterator[int]:
            for item in items:
                if not (item.index < len(self.data) and self.data.ids[item.index] == item.path):
                    reason = f"the data changed during the run: {item.path} is no longer picture {item.index}"
                    moved.append(Done(item.index, item.name, reason=reason))
                    continue
                names[item.index] = item.name
                yield item.index

        for one in evaluate(
            self.pipeline,
            self.data,
            self.task,
            job.method,
            noise_std=job.noise_std,
            seed=job.seed,
            settings=job.settings,
            lpips=self.lpips,
            batch_size=job.batch_size,
            capacity=job.capacity,
            progress=job.progress,
            rows=rows(),
        ):
            name = names.pop(one.index)
            if one.record is None:
                yield Done(one.index, name, reason=one.failed)
                continue
            pngs = _pngs(one) if one.index < job.shown else {}
            yield Done(one.index, name, replace(one.record, id=name).to_json(), pngs)
        yield from moved


def open_data(
    pipeline: FlashPipeline, data: Iterable[str | Path], limit: int | None, cache_gib: float = 4.0
) -> PictureDataset:
    """Pictures at the size the model was trained on.

    Raises:
        InputError: the model does not say its size, or no pictures there.
    """
    if pipeline.sample_size is None:
        raise InputError("the model's folder does not say its picture size; expected sample_size in model_index.json")
    return PictureDataset(data, pipeline.sample_size, limit, cache_gib)


def _pngs(one: Evaluated) -> dict[str, bytes]:
    pictures: dict[str, Tensor | None] = {"clean": one.clean, "measured": one.measured, "restored": one.restored}
    return {name: encode_picture(picture) for name, picture in pictures.items() if picture is not None}
