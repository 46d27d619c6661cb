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

    files: PNGs of its results, by name. unfetched: those of them that nobody has fetched. records: of its samples.
    """

    id: str
    work: Work
    folder: Path
    created: float = field(default_factory=time.time)
    expires: float | None = None
    files: dict[str, Path] = field(default_factory=dict)
    unfetched: set[str] = field(default_factory=set)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusal: Refusal | None = None
    told: bool = False  # that it failed

    @property
    def state(self) -> State:
        """How far it is."""
        if self.expires is None:
            return "running" if self.work.taken else "queued"
        return "done" if self.refusal is None else "failed"

    @property
    def fetched(self) -> bool:
        """Whether its user has what it came to."""
        return self.expires is not None and (not self.unfetched if self.refusal is None else self.told)

    def store(self, outcome: Outcome) -> None:
        """Write the results into its folder; in any thread."""
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
    """

    def __init__(self, folder: Path, keep: float) -> None:
        self.folder, self.keep = folder, keep
        self.known: dict[str, StoredJob] = {}

    def add(self, work: Work) -> StoredJob:
        """Make a job of a work that is not given to the engine yet."""
        id = secrets.token_hex(16)
        job = self.known[id] = StoredJob(id, work, self.folder / id)
        work.stored = job.store

        def done(future: asyncio.Future[Outcome | Refusal]) -> None:
            outcome = future.result()
            job.refusal = outcome if isinstance(outcome, Refusal) else None
            job.expires = time.time() + self.keep
            asyncio.get_running_loop().call_later(self.keep, self.drop, id)

        work.future.add_done_callback(done)
        return job

    def get(self, id: str) -> StoredJob:
        """The job of that id; raises Refusal if there is none."""
        if (job := self.known.get(id)) is None:
            kept = f"they are kept for {self.keep:g} s after they are done"
            raise Refusal(HTTPStatus.NOT_FOUND, f"no such job; {kept}, unless they are deleted")
        return job

    def of(self, work: Work) -> StoredJob:
        """The job of a work that was added."""
        return next(job for job in reversed(self.known.values()) if job.work is work)

    def drop(self, id: str) -> None:
        """Forget a job and its results."""
        if (job := self.known.pop(id, None)) is not None:
            shutil.rmtree(job.folder, ignore_errors=True)

    @property
    def fetched(self) -> bool:
        """Whether there is nothing left that a user may come for."""
        return all(job.fetched for job in self.known.values())
