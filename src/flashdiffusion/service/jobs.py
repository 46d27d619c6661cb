"""Jobs: requests whose results are fetched later, from files in a temporary folder, and dropped after a while."""

import asyncio
import secrets
import shutil
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from flashdiffusion.service.refusals import Refusal
from flashdiffusion.service.work import Outcome, Work

State = Literal["queued", "running", "done", "failed"]


@dataclass(eq=False)
class StoredJob:
    """A job, and what it came to.

    work: until it is done. files: PNGs of its results, by name. unfetched: those of them that nobody has fetched.
    records: of its samples. dropped: nobody knows it any more.
    """

    id: str
    work: Work | None
    folder: Path
    created: float = field(default_factory=time.time)
    expires: float | None = None
    files: dict[str, Path] = field(default_factory=dict)
    unfetched: set[str] = field(default_factory=set)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusal: Refusal | None = None
    told: bool = False  # that it failed
    dropped: bool = False

    @property
    def state(self) -> State:
        """How far it is."""
        if self.expires is None:
            return "running" if self.work is not None and self.work.taken else "queued"
        return "done" if self.refusal is None else "failed"

    @property
    def fetched(self) -> bool:
        """Whether its user has what it came to."""
        return self.expires is not None and (not self.unfetched if self.refusal is None else self.told)

    def store(self, outcome: Outcome) -> None:
        """Write the results into its folder, unless it is dropped meanwhile; in any thread."""
        try:
            self._write(outcome)
        except FileNotFoundError:  # its folder went with it
            if not self.dropped:
                raise
        finally:
            if self.dropped:
                self._delete()

    def drop(self) -> None:
        """Delete the results, also those that are being written."""
        self.dropped = True
        self._delete()

    def _delete(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, outcome: Outcome) -> None:
        if self.dropped:
            return
        self.folder.mkdir()
        pngs = {f"images/{n}": one.png for n, one in enumerate(outcome.samples)}
        pngs |= {f"maps/{kind}": png for kind, png in outcome.maps.items()}
        for name, png in pngs.items():
            path = self.folder / f"{name.replace('/', '-')}.png"
            path.write_bytes(png)
            self.files[name] = path
        self.unfetched = {*self.files}
        self.records, self.notes = [one.record for one in outcome.samples], outcome.notes


class Jobs:
    """The jobs of a service; to be used in its loop.

    Args:
        folder: a temporary one, for results.
        keep: seconds that a job is kept when it is done.
        most: jobs that are kept when they are done; of more, the one that is done for longest is dropped.
    """

    def __init__(self, folder: Path, keep: float, most: int) -> None:
        self.folder, self.keep, self.most = folder, keep, most
        self.known: dict[str, StoredJob] = {}
        self.ended: dict[str, None] = {}  # ids of those that are done, the first first

    def add(self, work: Work) -> StoredJob:
        """Make a job of a work that is not given to the engine yet."""
        id = secrets.token_hex(16)
        job = self.known[id] = StoredJob(id, work, self.folder / id)
        work.stored = job.store

        def done(future: asyncio.Future[Outcome | Refusal]) -> None:
            outcome = future.result()
            job.refusal = outcome if isinstance(outcome, Refusal) else None
            job.expires = time.time() + self.keep
            job.work = None  # with its picture, and its results once more
            if id not in self.known:
                return
            self.ended[id] = None
            while len(self.ended) > self.most:
                self.drop(next(iter(self.ended)))
            asyncio.get_running_loop().call_later(self.keep, self.drop, id)

        work.future.add_done_callback(done)
        return job

    def get(self, id: str) -> StoredJob:
        """The job of that id; raises Refusal if there is none."""
        if (job := self.known.get(id)) is None:
            kept = f"the last {self.most} are kept for {self.keep:g} s after they are done"
            raise Refusal(HTTPStatus.NOT_FOUND, f"no such job; {kept}, unless they are deleted")
        return job

    def of(self, work: Work) -> StoredJob:
        """The job of a work that was added."""
        return next(job for job in reversed(self.known.values()) if job.work is work)

    def drop(self, id: str) -> None:
        """Forget a job and its results."""
        self.ended.pop(id, None)
        if (job := self.known.pop(id, None)) is not None:
            job.drop()

    @property
    def fetched(self) -> bool:
        """Whether there is nothing left that a user may come for."""
        return all(job.fetched for job in self.known.values())
