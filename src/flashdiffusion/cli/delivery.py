"""Runs over many images: where they are made, what is kept of them, how they are continued."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashdiffusion.cli.inputs import Failures, SharedNotes
from flashdiffusion.cli.options import RunOptions
from flashdiffusion.errors import InputError, note

if TYPE_CHECKING:
    from flashdiffusion.jobs import EvaluateJob, Item, RestoreJob
    from flashdiffusion.jobs.journal import Journal
    from flashdiffusion.record import Record

    Job = RestoreJob | EvaluateJob


def _start(job: "Job", items: "Sequence[Item]", run: RunOptions) -> "Iterator[Item]":
    """Do the items; each is given as soon as it is done."""
    from flashdiffusion.jobs import run_local, run_on_ray
    from flashdiffusion.progress import tracked

    if not items:
        return iter(())
    if run.compile is not None and job.model.torch_device.type == "cpu":
        note("--compile on a CPU takes minutes for each size of batch, for no known gain (docs/performance.md)")
    if run.engine == "local":
        return run_local(replace(job, total=len(items)), items)
    replace(job, model=job.model.on("cpu")).open()  # here too, so that no worker starts for what cannot be
    gpus = 0 if job.model.device == "cpu" else None
    dones = run_on_ray(job, items, run.workers, run.address, gpus=gpus)
    return tracked(dones, len(items), "restoring")


def note_corrected(ids: Sequence[str], images: int, records: Path) -> None:
    """Say which of the images were restored with a corrected physics, and where their records are."""
    if ids:
        note(
            f"{len(ids)} of {images} images do not fit the physics that was told (first: {ids[0]}); they were restored "
            f"with it corrected (physics_corrected in {records}): check its strength"
        )


@dataclass
class Delivery:
    """One run: a job's items done where `run` says, written as they come, and reported in `results`.

    about: what the results depend on, see `Journal`. digest_of: a hash of what an item is made of now. save: writes
    what comes of an item. saved: whether what an earlier run wrote by this name is still there. clear: deletes what an
    earlier run left unfinished, of a run that does not go on from it.
    """

    job: "Job"
    items: "Sequence[Item]"
    run: RunOptions
    results: Path
    about: Mapping[str, Any]
    digest_of: "Callable[[Item], str]"
    save: "Callable[[Item], None]"
    saved: Callable[[str], bool] = lambda name: True
    clear: Callable[[], None] = lambda: None
    failures: Failures = field(default_factory=Failures)

    def __call__(self, more: "Callable[[list[Record]], dict[str, Any]]" = lambda records: {}) -> "list[Record]":
        """Do what is missing, and write the results file of all records; nothing if there is none.

        Args:
            more: what the file holds beside `about`, from the records.

        Raises:
            InputError: another run is at it, or an earlier one was about something else; the disk is full.
            RuntimeError: an image came neither as a result nor as a failure.
        """
        from flashdiffusion.jobs.journal import Journal
        from flashdiffusion.jobs.lock import locked
        from flashdiffusion.jobs.records import report
        from flashdiffusion.record import Record

        with locked(self.results):
            journal = Journal(self.results, self.about, self.run.resume)
            asked = {item.name: item for item in self.items}
            self._note_replaced(journal.replaced, asked)
            if not self.run.resume:
                self.clear()
            journal.done = {name: row for name, row in journal.done.items() if self._stands(row, asked.get(name))}
            rows, failed = self._take(journal)
            rows = journal.done | rows
            names = [name for name in rows if name not in asked] + [name for name in asked if name in rows]
            if records := [Record.from_json(rows[name]) for name in names]:
                about = {**self.about, **more(records)}
                with self._writing(journal):
                    journal.finish(report(self.job.model.torch_device, about, records, failed))
            note_corrected([record.id for record in records if record.physics_corrected], len(records), self.results)
            return records

    def _note_replaced(self, rows: "Mapping[str, dict[str, Any]]", asked: "Mapping[str, Item]") -> None:
        """Say which records of an earlier run are of no image of this one, and will be gone."""
        own = {name: item.path for name, item in asked.items()}
        others = [name for name, row in rows.items() if name not in own or row.get("file", own[name]) != own[name]]
        if others:
            note(
                f"{self.results} of an earlier run is replaced: {len(others)} of its {len(rows)} images are not "
                f"among these ({others[0]} the first) and lose their records; --resume or another --out keeps them"
            )

    def _stands(self, row: dict[str, Any], item: "Item | None") -> bool:
        """Whether a record of an earlier run is of what its name stands for now."""
        try:
            return item is None or (self.saved(row["id"]) and row.get("digest") == self.digest_of(item))
        except OSError:
            return False

    def _take(self, journal: "Journal") -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Keep what comes: records as JSON, and reasons, by name."""
        rows: dict[str, dict[str, Any]] = {}
        failed: dict[str, str] = {}
        shared = SharedNotes()
        missing = [item for item in self.items if item.name not in journal.done]
        try:
            for done in _start(self.job, missing, self.run):
                for text in done.notes:
                    note(text)
                shared.add(done.shared, done.index)
                if done.reason is not None:
                    self.failures.reasons.append((done.source or done.name, done.reason))
                    failed[done.name] = done.reason
                if done.record is not None:
                    with self._writing(journal):
                        self.save(done)
                        if done.reason is None:
                            journal.add(done.record)
                    rows[done.name] = done.record
        except KeyboardInterrupt:
            print(f"\nflashdiffusion: interrupted: {self._so_far(journal)}; --resume continues", file=sys.stderr)
            raise
        finally:
            journal.close()
            shared.say(len(missing))
        if lost := [item.name for item in self.items if item.name not in journal.done | rows | failed]:
            raise RuntimeError(
                f"{len(lost)} of {len(self.items)} images have no result, {lost[0]} the first; --resume does them; "
                "please report this fault"
            )
        return rows, failed

    @contextmanager
    def _writing(self, journal: "Journal") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.results
            raise InputError(
                f"cannot write {where}: {error.strerror or error}; {self._so_far(journal)}: make room, then --resume "
                "continues"
            ) from error

    def _so_far(self, journal: "Journal") -> str:
        done = sum(item.name in journal.done for item in self.items)
        return f"{done} of {len(self.items)} images are done"
