"""A method measured on a task, image by image."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors.torch import save

from flashdiffusion.data import ImageDataset, encode_image
from flashdiffusion.errors import sized
from flashdiffusion.jobs.job import Item, ModelChoice
from flashdiffusion.jobs.measuring import Evaluated, Measure, evaluate
from flashdiffusion.methods import DEFAULT_METHOD, Settings
from flashdiffusion.metrics import Distributions, Metrics
from flashdiffusion.physics import get_task
from flashdiffusion.pipeline import FlashPipeline

SQUARE = 144  # side in pixels of images that are to be of one size; 2, 3, 4 and 16 divide it
KINDS = ("clean", "measured", "estimate", "restored")  # of images that are kept


@dataclass(frozen=True)
class EvaluateJob:
    """Measure a method on a task; an item's place is that of its image in the data, its path the image's id there.

    data, limit, split: the images, see `ImageDataset`. weights: weights files of metrics that need them, by name.
    batch_size: images that are loaded together. images: give PNGs too, of what is clean, measured, estimated and
    restored. distances: metrics of whole runs that features are given for. total: the number of items, to show how
    far they are; None shows nothing.
    """

    data: tuple[str, ...]
    model: ModelChoice = field(default_factory=ModelChoice)
    task: str = "gaussian-blur"
    method: str = DEFAULT_METHOD
    noise_std: float = 0.05
    seed: int = 0
    settings: Settings = field(default_factory=Settings)
    limit: int | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    batch_size: int = 64
    max_in_flight: int | None = None
    images: bool = False
    distances: tuple[str, ...] = ()
    total: int | None = None
    split: str | None = None

    def open(self) -> "EvaluateWorker":
        """Load the model and list the data.

        Raises:
            InputError: options that no image can use.
        """
        return EvaluateWorker(self)


class EvaluateWorker:
    """An opened job."""

    def __init__(self, job: EvaluateJob) -> None:
        self.job = job
        self.task = get_task(job.task)
        self.options = {
            name: getattr(job, name) for name in ("noise_std", "seed", "settings", "batch_size", "max_in_flight")
        }
        self.options["estimates"] = job.images
        start, solver = Measure(self.task, job.method, **self.options).parts
        self.metrics, self.distributions = Metrics(job.weights), Distributions(job.distances, job.weights)
        self.pipeline = job.model.open()
        size = self.pipeline.sample_size  # None: each image keeps its own
        self.data = ImageDataset(job.data, size, job.limit, 0, job.split)  # each image is read once
        self.pipeline.method(solver, start, job.settings)

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        """Evaluate the items; each is given once, as soon as it is done."""
        job, asked, moved = self.job, dict[int, Item](), deque[Item]()

        def rows() -> Iterator[int]:
            for item in items:
                if not (item.index < len(self.data) and self.data.ids[item.index] == item.path):
                    reason = f"the data changed during the run: {item.path} is no longer image {item.index}"
                    moved.append(replace(item, reason=reason))
                    continue
                asked[item.index] = item
                yield item.index

        for one in evaluate(
            self.pipeline,
            self.data,
            self.task,
            job.method,
            rows=rows(),
            progress=job.total is not None,
            total=job.total,
            metrics=self.metrics,
            **self.options,
        ):
            item = asked.pop(one.index)
            if one.record is None:
                yield replace(item, reason=one.failed)
                continue
            record = replace(one.record, id=item.name, digest=self.data.digest(one.index))
            pngs = _pngs(one) if job.images else {}
            yield replace(item, record=record.to_json(), pngs=pngs, features=self._features(one))
        yield from moved

    def _features(self, one: Evaluated) -> bytes:
        if not self.distributions.networks or one.restored is None or one.clean is None:
            return b""
        return save(self.distributions.features(one.restored, one.clean))


def open_data(
    pipeline: FlashPipeline,
    data: Iterable[str | Path],
    limit: int | None,
    cache_gib: float = 4.0,
    split: str | None = None,
) -> ImageDataset:
    """Images at the size the model was trained on, see `ImageDataset`; at `SQUARE` if it has none of its own."""
    images = ImageDataset(data, pipeline.sample_size or SQUARE, limit, cache_gib, split)
    if pipeline.sample_size is None:
        images.notes.append(
            f"images are cropped and resized to {sized(SQUARE, SQUARE)}: the model has no size of its own"
        )
    return images


def _pngs(one: Evaluated) -> dict[str, bytes]:
    images = {name: getattr(one, name) for name in KINDS}
    return {name: encode_image(image) for name, image in images.items() if image is not None}
