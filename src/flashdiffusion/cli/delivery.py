"""Runs over many images: where they are made, what is kept of them, how they are continued."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flashdiffusion.cli.inputs import Failures, note
from flashdiffusion.errors import InputError, unknown_name

if TYPE_CHECKING:
    from flashdiffusion.jobs import Done, EvaluateJob, Item, RestoreJob
    from flashdiffusion.jobs.journal import Journal
    from flashdiffusion.jobs.records import Record

ENGINES = ("local", "ray")
_FAULT = "--resume does them; please report this fault"


@dataclass(frozen=True)
class Engine:
    """Where images are made: in this process, or by the workers of Ray.

    Raises:
        InputError: unknown name, or options of the other engine.
    """

    name: str = "local"
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise unknown_name("engine", self.name, ENGINES)
        given = {"--workers": self.workers, "--address": self.address}
        unused = [option for option, value in given.items() if value is not None]
        if self.name == "local" and unused:
            raise InputError(f"{', '.join(unused)}: for --engine ray; the local engine is this process alone")

    def run(self, job: "RestoreJob | EvaluateJob", items: "Sequence[Item]") -> "Iterator[Done]":
        """Do the items; each is given as soon as it is done.

        Raises:
            InputError: options that no image can use, or no Ray.
        """
        from tqdm import tqdm

        from flashdiffusion.jobs import run_local, run_on_ray

        if not items:
            return iter(())
        if job.model.compile is not None and job.model.torch_device.type == "cpu":
            note("--compile on a CPU takes minutes for each size of batch, for no known gain (docs/results.md)")
        if self.name == "local":
            return run_local(replace(job, progress=True), items)
        replace(job, model=job.model.on("cpu")).open()  # here too, so that no worker starts for what cannot be
        gpus = 0 if job.model.device == "cpu" else None
        dones = run_on_ray(job, items, self.workers, self.address, gpus=gpus)
        return iter(tqdm(dones, total=len(items), unit="image", delay=2))


@dataclass
class Delivery:
    """Images of a run as they come: written, kept in the journal, or counted among the failures.

    items: all that are asked for, those that are done already among them.
    """

    journal: "Journal"
    items: "Sequence[Item]"
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # records of this run by name, as JSON
    failures: Failures = field(default_factory=Failures)
    failed: dict[str, str] = field(default_factory=dict)

    def take(self, dones: "Iterator[Done]", save: "Callable[[Done], None]") -> None:
        """Keep what comes.

        Raises:
            InputError: the disk is full, or not to be written to.
            KeyboardInterrupt: as it came; what is done is said on stderr.
            RuntimeError: an image came neither as a result nor as a failure.
        """
        came = set(self.journal.done)
        try:
            for done in dones:
                self._keep(done, save)
                came.add(done.name)
        except KeyboardInterrupt:
            print(f"\nflashdiffusion: interrupted: {self._so_far()}; --resume continues", file=sys.stderr)
            raise
        finally:
            self.journal.close()
        if lost := [item.name for item in self.items if item.name not in came]:
            raise RuntimeError(f"{len(lost)} of {len(self.items)} images have no result, {lost[0]} the first; {_FAULT}")

    def finish(self, report: "Callable[[list[Record], Mapping[str, str]], dict[str, Any]]") -> "list[Record]":
        """Write the results file of all records, those of earlier runs first; nothing if there is none.

        Args:
            report: what the file holds, from the records and the failures.
        """
        from flashdiffusion.jobs.records import Record

        rows = self.journal.done | self.rows
        asked = [item.name for item in self.items]
        others = rows.keys() - asked
        names = [name for name in rows if name in others] + [name for name in asked if name in rows]
        records = [Record.from_json(rows[name]) for name in names]
        if records:
            self._writing(lambda: self.journal.finish(report(records, self.failed)))
        return records

    def _keep(self, done: "Done", save: "Callable[[Done], None]") -> None:
        for text in done.notes:
            note(text)
        if done.reason is not None:
            self.failures.reasons.append((done.source or done.name, done.reason))
            self.failed[done.name] = done.reason
        record = done.record
        if record is None:
            return
        self._writing(lambda: save(done))
        if done.reason is None:
            self._writing(lambda: self.journal.add(record))
        self.rows[done.name] = record

    def _writing(self, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            where = error.filename or self.journal.results
            raise InputError(
                f"cannot write {where}: {error.strerror or error}; {self._so_far()}: make room, then --resume continues"
            ) from error

    def _so_far(self) -> str:
        asked = [item.name for item in self.items]
        done = sum(name in self.journal.done for name in asked)
        return f"{done} of {len(asked)} images are done"
