"""What is to be done with many images, so that any process can do its part of them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, Self

import torch

from flashdiffusion.data import Kind
from flashdiffusion.errors import InputError, brief, check_name, note, unknown_name
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.presets import Presets
from flashdiffusion.priors import Conditions
from flashdiffusion.priors.precision import is_fast

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass
class Item:
    """One image of a job: what is to be done, and what became of it.

    index: its place among all. name: of its outputs. path: its file, if it is one of its own.

    record: what is known of the image, as in a results file. pngs: images by what they show ("restored", "severity",
    "clean", "measured"), as PNG files. features: what distances of whole runs need of the image, as a safetensors file;
    empty if there is nothing. reason: what went wrong; with a record, this was not the restoration. source:
    the file that the reason is about, if it could not be read. notes: what the user should be told. shared: the same of
    what may be so of many images, to be told once: what is so of them, and how this one is named. fitted: whether the
    image was cropped and resized. kind: of picture that its result is to be. noise_std: σ_y that was estimated from it.
    """

    index: int
    name: str
    path: str = ""
    record: dict[str, Any] | None = None
    pngs: Mapping[str, bytes] = field(default_factory=dict)
    features: bytes = b""
    reason: str | None = None
    source: str | None = None
    notes: tuple[str, ...] = ()
    shared: Mapping[str, str] = field(default_factory=dict)
    fitted: bool = False
    kind: Kind = field(default_factory=Kind, compare=False)
    noise_std: float | None = None

    def note(self, text: str) -> None:
        """Tell the user something."""
        self.notes += (text,)


class Worker(Protocol):
    """Does any number of items: gives a copy of each once, with what became of it, in whatever order they finish."""

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]: ...


class Job(Protocol):
    """All that a worker needs, as plain values that can be sent to another process."""

    def open(self) -> Worker:
        """Load what is needed.

        Raises:
            InputError: options that no image can use.
        """
        ...


def run_local(job: Job, items: Iterable[Item]) -> Iterator[Item]:
    """Do the items in this process; each is given as soon as it is done.

    Raises:
        InputError: options that no image can use; at once, not when the first result is asked for.
    """
    return job.open()(items)


@dataclass(frozen=True)
class ModelChoice:
    """A model by its folder, name or hub id, and how it is to run.

    device: None for a GPU if there is one. regressor: another model, whose regressor is used. compile: mode of
    `FlashPipeline.compile`, None to leave the networks as they are. told: kind of degradation that the severity encoder
    takes every image for. conditions: what a conditional model is told, None for nothing else than was saved with it.
    """

    name: str | None = None
    device: str | None = None
    precision: str = "float32"
    regressor: str | None = None
    compile: str | None = None
    told: str | None = None
    conditions: Conditions | None = None

    @property
    def torch_device(self) -> torch.device:
        """Where it runs."""
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def presets(self) -> Presets:
        """Its settings, without loading it."""
        return FlashPipeline.presets_of(self.name)

    def on(self, device: str) -> Self:
        """The same on another device."""
        return replace(self, device=device)

    def open(self) -> FlashPipeline:
        """Load it.

        Raises:
            InputError: a device that torch does not have here, an unknown precision, a model without what it is for.
        """
        check_name("precision", self.precision, PRECISIONS)
        if self.compile is not None and self.compile not in COMPILE_MODES:
            raise unknown_name("compile mode", self.compile, COMPILE_MODES)
        try:
            probe = torch.zeros(1, device=self.torch_device)
            probe.item()  # the meta device has tensors, but no numbers
        except (RuntimeError, AssertionError) as error:
            reason = brief(error).split(". ")[0]
            raise InputError(f"device {self.device!r} cannot be used here: {reason}; try --device cpu") from error
        told = {} if self.conditions is None else asdict(self.conditions)
        pipeline = FlashPipeline.from_pretrained(self.name, **told)
        if self.regressor is not None:
            other = FlashPipeline.from_pretrained(self.regressor)
            if other.regressor is None:
                raise InputError(
                    f"model {self.regressor} has no regressor; train one with `flashdiffusion train regressor`"
                )
            pipeline.regressor = other.regressor
        if self.told is not None:
            pipeline.take_for(self.told)
        dtype = getattr(torch, self.precision)
        if not is_fast(dtype, probe.device):
            note(f"this processor has no {self.precision} instructions and would take far longer; float32 is used")
            dtype = torch.float32
        pipeline.to(probe.device, dtype)
        return pipeline if self.compile is None else pipeline.compile(self.compile)
