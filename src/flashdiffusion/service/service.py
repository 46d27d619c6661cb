"""Requests from their acceptance to their outcome: what is let in, who reads it, who waits for it."""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

from flashdiffusion.errors import InputError, check_name, counted
from flashdiffusion.hosting import MEGA
from flashdiffusion.jobs import ModelChoice
from flashdiffusion.service.asked import Asked, asked_model
from flashdiffusion.service.feed import FAULT, Feed
from flashdiffusion.service.jobs import Jobs
from flashdiffusion.service.metrics import ServiceMetrics
from flashdiffusion.service.options import ServiceOptions
from flashdiffusion.service.refusals import RETRY, Refusal
from flashdiffusion.service.uploads import Reading, Uploaded
from flashdiffusion.service.work import Outcome, Read, Work

READERS, FINISHERS = 2, 2  # threads that decode pictures, and that encode results
log = logging.getLogger("flashdiffusion.service")


@dataclass(frozen=True)
class Served:
    """A model that is served."""

    reading: Reading
    feed: Feed


class Service:
    """Models that are served, and the requests that are on their way.

    Args:
        models: by the names that users know them by; the first is the default.

    Raises:
        InputError: a model that cannot be loaded.
    """

    def __init__(self, models: Mapping[str, ModelChoice], options: ServiceOptions) -> None:
        if not models:
            raise InputError("no models to serve; expected at least one")
        opened = {name: choice.open() for name, choice in models.items()}
        self.options, self.metrics = options, ServiceMetrics()
        self.temporary = TemporaryDirectory(prefix="flashdiffusion-")
        self.folder = Path(self.temporary.name)
        self.readers = ThreadPoolExecutor(READERS, "reading")
        self.finishers = ThreadPoolExecutor(FINISHERS, "finishing")
        self.jobs = Jobs(self.folder, options.keep, options.max_kept)
        self.asked = asked_model(options.max_samples)
        self.served: dict[str, Served] = {}
        self.works: set[Work] = set()  # that the engine has
        self.pending = 0  # requests that are accepted and that the engine has not let go
        self.pending_pixels = 0
        self.draining = False
        self.idle_since: float | None = None  # while draining: since when nothing is pending
        self.metrics.watch(lambda: self.pending, lambda: len(self.jobs.known))
        for name, pipeline in opened.items():
            feed = Feed(pipeline, self._let_go, self.metrics.together.observe, options.max_in_flight)
            self.served[name] = Served(Reading(models[name], pipeline, self.folder, options.max_pixels), feed)

    # -- acceptance --------------------------------------------------------------------------------------------

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """Hold a place for a request while it is read.

        Raises:
            Refusal: there is none.
        """
        if self.draining:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the service is shutting down", RETRY)
        if self.pending >= self.options.max_pending:
            raise self._full(counted(self.pending, "request"))
        place = Place()
        self.pending += 1
        try:
            yield place
        finally:
            if place.work is None:
                self.pending -= 1

    def _full(self, what: str) -> Refusal:
        return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"the queue is full ({what}); try again later", RETRY)

    async def accept(
        self, place: "Place", upload: Uploaded, attachments: Mapping[str, Uploaded], asked: Asked, job: bool
    ) -> Work:
        """Read a picture and put it in line.

        Raises:
            Refusal: it cannot be used, or there is no room for one so large.
        """
        if asked.model is not None:
            try:
                check_name("model", asked.model, self.served)
            except InputError as error:
                raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        served = self.served[asked.model or next(iter(self.served))]
        read: Read = await asyncio.get_running_loop().run_in_executor(
            self.readers, served.reading, upload, attachments, asked
        )
        room = int(self.options.max_pending_megapixels * MEGA) - self.pending_pixels
        if self.pending_pixels and read.pixels > room:
            raise self._full(f"{self.pending_pixels / MEGA:.3g} megapixels")
        place.work = work = Work(read, read.pixels)
        self.pending_pixels += work.pixels
        if job:
            self.jobs.add(work)
        timer = work.loop.call_later(self.options.timeout, self._time_out, work, served.feed)
        work.future.add_done_callback(lambda _: timer.cancel())
        work.future.add_done_callback(lambda future: self._count(work, future.result()))
        work.give_up = lambda reason: served.feed.cancel(work, reason)
        self.works.add(work)
        served.feed.put(work)
        return work

    # -- the end of a work -------------------------------------------------------------------------------------

    def _time_out(self, work: Work, feed: Feed) -> None:
        reason = f"not done within {self.options.timeout:g} s, the time-out of this service"
        work.resolve(Refusal(HTTPStatus.GATEWAY_TIMEOUT, reason))
        feed.cancel(work, reason)

    def _let_go(self, work: Work) -> None:
        """Make the outcome of a work that the engine has let go; called in any thread."""

        def finish() -> None:
            try:
                if work.cancellation.reason is not None:
                    work.fail(HTTPStatus.CONFLICT, work.cancellation.reason)
                else:
                    work.finish()
            except Exception:
                log.exception("a result could not be given")
                work.fail(HTTPStatus.INTERNAL_SERVER_ERROR, FAULT)
            finally:
                work.forget()
                work.call(lambda: self._release(work))

        self.finishers.submit(finish)

    def _release(self, work: Work) -> None:
        self.works.discard(work)
        self.pending -= 1
        self.pending_pixels -= work.pixels

    def _count(self, work: Work, outcome: Outcome | Refusal) -> None:
        ended = "restored"
        if isinstance(outcome, Refusal):
            ended = "cancelled" if work.cancellation.reason is not None else "failed"
            ended = "timed out" if outcome.status == HTTPStatus.GATEWAY_TIMEOUT else ended
        else:
            for one in outcome.samples:
                self.metrics.evaluations.observe(one.record.get("nfe", 0))
        self.metrics.requests.labels(ended).inc()
        self.metrics.duration.observe(time.perf_counter() - work.began)

    # -- health and the end of the service -----------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether every model has a thread that serves it."""
        return all(one.feed.alive for one in self.served.values())

    def drain(self) -> None:
        """Let nothing more in; what is accepted goes on."""
        self.draining = True

    @property
    def drained(self) -> bool:
        """Whether all that was accepted is done, and fetched, or has waited long enough for that."""
        if not self.draining or self.pending:
            self.idle_since = None
            return False
        self.idle_since = self.idle_since or time.monotonic()
        return self.jobs.fetched or time.monotonic() - self.idle_since > self.options.grace

    def close(self) -> None:
        """End all threads, giving up what is on its way, and delete all files."""
        self.drain()
        for work in [*self.works]:
            work.give_up("the service was stopped")
        for one in self.served.values():
            one.feed.close()
        for pool in (self.readers, self.finishers):
            pool.shutdown()
        self.temporary.cleanup()


@dataclass(eq=False)
class Place:
    """Of a request among those that are pending; its work, once there is one."""

    work: Work | None = None
