"""One accepted request on its way through the engine."""

import asyncio
import re
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flashdiffusion.engine.cancellation import Cancellation
from flashdiffusion.engine.capacity import OUT_OF_MEMORY
from flashdiffusion.jobs import Item, RestoreJob
from flashdiffusion.jobs.restore import Kept, RestoreWorker, joinable
from flashdiffusion.methods import Settings
from flashdiffusion.pipeline import Batch, Restored
from flashdiffusion.service.refusals import Refusal
from flashdiffusion.solvers import Problem

OWN, ATTACHED = "file", "attached"  # folders of a request's files, while they are read


def plain(text: str, folder: Path) -> str:
    """A message with files by the names that the user gave them, without the folders that they are in."""
    return re.sub(f"{re.escape(str(folder))}/(?:{OWN}/|{ATTACHED}/)?", "", text)


@dataclass(frozen=True)
class Sample:
    """One result: a PNG, and its record as in a results file."""

    png: bytes
    record: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a request came to: its samples, notes for the user, and pictures of severity and steps as PNGs, by name."""

    samples: list[Sample]
    notes: list[str]
    maps: dict[str, bytes] = field(default_factory=dict)


@dataclass(eq=False)
class Read:
    """A picture as it was read: its problem, and what `RestoreWorker.finish` is to know of it.

    name: of its file, as the user calls it. folder: where that and attachments were, while it was read.
    notes: what the user should know.
    """

    worker: RestoreWorker
    problem: Problem
    known: Kept
    name: str
    folder: Path
    samples: int = 1
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        """Of its results."""
        return self.samples * self.problem.image.shape[2] * self.problem.image.shape[3]

    @property
    def job(self) -> RestoreJob:
        """What is to be done."""
        return self.worker.job

    def plainly(self, text: str) -> str:
        """A message without the folders that files were in."""
        return plain(text, self.folder)


class Work:
    """A request from its acceptance to its outcome, which `future` gives in the loop that it was made in.

    The engine takes it, delivers each sample, and hands it on when all are there.

    Args:
        read: its picture.
        pixels: that it counts for among those that are pending.
    """

    def __init__(self, read: Read, pixels: int) -> None:
        self.read, self.pixels = read, pixels
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Outcome | Refusal] = self.loop.create_future()
        self.cancellation = Cancellation()
        self.began = time.perf_counter()
        self.attempts = 0  # that ended with a fault of the engine
        self.taken = False  # by the engine
        self.results: list[Restored] = []
        self.failed: str | None = None
        self.refusal: Refusal | None = None  # what it comes to, if it is given up by other than its failure
        self.give_up: Callable[[str], None] = self.cancellation.cancel
        self.stored: Callable[[Outcome], None] | None = None  # where a job's outcome goes before it is given

    # -- in the engine's threads -----------------------------------------------------------------------------

    @cached_property
    def alike(self) -> Hashable:
        """Works for which it is equal share a batch; a picture in tiles comes alone."""
        job, problem = self.read.job, self.read.problem
        alone = None if self.read.worker.tiling(problem) is None else id(self)
        return joinable(problem), job.method, job.seed, Settings(**job.given), self.read.samples, alone

    def take(self, restored: Restored) -> bool:
        """Take a sample that left the engine; whether it was the last."""
        self.results.append(restored)
        self.failed = self.failed or restored.failed
        return len(self.results) >= self.read.samples

    def again(self) -> None:
        """Forget what was taken, to be run anew."""
        self.results, self.failed, self.attempts = [], None, self.attempts + 1

    def fail(self, status: int, reason: str) -> None:
        """Give it up."""
        self.resolve(Refusal(status, reason))

    def finish(self) -> None:
        """Make its outcome of what was taken; in any thread."""
        if self.refusal is not None:
            self.resolve(self.refusal)
            return
        if self.failed is not None:
            too_large = self.failed.startswith(OUT_OF_MEMORY)
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_large else HTTPStatus.UNPROCESSABLE_ENTITY
            self.fail(status, self.read.plainly(self.failed))
            return
        outcome = self._outcome()
        if self.stored is not None:
            self.stored(outcome)
        self.resolve(outcome)

    def forget(self) -> None:
        """Let its picture and results go; nothing but its outcome is asked for any more."""
        del self.read
        self.results, self.stored = [], None

    def _outcome(self) -> Outcome:
        item, record, problem = self.read.known
        samples, notes, maps = list[Sample](), dict[str, None](), dict[str, bytes]()
        for restored in sorted(self.results, key=lambda one: one.index):
            one: Item = self.read.worker.finish(replace(restored, extra=(replace(item), record, problem)))
            own = (one.record or {}) | {"id": restored.id, "file": self.read.name}
            samples.append(Sample(one.pngs["restored"], own))
            shared = [f"1 of 1 images {what}: {named}" for what, named in one.shared.items()]
            notes |= dict.fromkeys(map(self.read.plainly, (*self.read.notes, *one.notes, *shared)))
            maps = maps or {kind: png for kind, png in one.pngs.items() if kind != "restored"}
        return Outcome(samples, [*notes], maps)

    def resolve(self, outcome: Outcome | Refusal) -> None:
        """Give the outcome, if there is none yet; in any thread."""

        def give() -> None:
            if not self.future.done():
                self.future.set_result(outcome)

        self.call(give)

    def call(self, function: Callable[[], None]) -> None:
        """Call it in the loop that waits for the outcome, if that is still there; in any thread."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function)


def batch_of(works: list[Work]) -> Batch:
    """Works that are alike as a batch, each as the `extra` of its images."""
    problem = Problem.join([one.read.problem for one in works])
    job = works[0].read.job
    return Batch.of(
        [one.read.known[0].name for one in works],
        problem,
        Settings(**job.given) if job.given else None,
        works,
        samples=works[0].read.samples,
        method=job.method,
        seed=job.seed,
        cancellations=[one.cancellation for one in works],
    )
