"""The engine of a model, fed by a queue: requests join those that are stepping."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from threading import Condition, Thread

from flashdiffusion.engine.gathering import TOGETHER
from flashdiffusion.engine.options import StreamOptions
from flashdiffusion.engine.progress import Progress
from flashdiffusion.engine.stream import Stream
from flashdiffusion.errors import FlashDiffusionError
from flashdiffusion.pipeline import Batch, FlashPipeline
from flashdiffusion.service.refusals import Refusal
from flashdiffusion.service.work import Work, batch_of

RENEWED = 1000  # works after which another stream takes over, and all that one keeps by settings and sizes is let go
FAULT = "a fault of the service; it is in its log"
log = logging.getLogger("flashdiffusion.service")


@dataclass(eq=False)
class _Run:
    """One stream: the works that it has, how many it was given, and whether it is to be given no more."""

    flying: dict[int, Work] = field(default_factory=dict)
    given: int = 0
    ended: bool = False


class Feed:
    """Gives works to a model's stream, in a thread of its own.

    A fault of the engine that is no failure of an image (a bug, of this library or of a plugin) ends the stream. What
    was in flight is then run again, each alone, so that the one at fault takes no other along.

    Args:
        done: called with each work that the engine has let go, once, in some thread.
        on_step: called with the number of images that a step moved.
    """

    def __init__(
        self,
        pipeline: FlashPipeline,
        done: Callable[[Work], None],
        on_step: Callable[[int], None] = lambda images: None,
        max_in_flight: int | None = None,
    ) -> None:
        self.pipeline, self.done = pipeline, done
        self.options = StreamOptions(None, "flash", max_in_flight=max_in_flight, live=True, on_step=on_step)
        self.queue: deque[Work] = deque()
        self.suspects: deque[Work] = deque()
        self.changed = Condition()
        self.closing = False
        self.threads: list[Thread] = []
        self._start()

    @property
    def alive(self) -> bool:
        """Whether a thread serves it."""
        return any(thread.is_alive() for thread in self.threads)

    def put(self, work: Work) -> None:
        """Put a work in line."""
        with self.changed:
            self.queue.append(work)
            self.changed.notify_all()

    def cancel(self, work: Work, reason: str) -> None:
        """Give a work up, wherever it is: in line now, in flight before its next step."""
        work.cancellation.cancel(reason)
        with self.changed:
            waiting = work in self.queue
            if waiting:
                self.queue.remove(work)
        if waiting:
            self.done(work)

    def close(self) -> None:
        """End the threads when all that was put is done."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        while self.alive:  # one may begin another
            for thread in self.threads:
                thread.join()

    def _start(self) -> None:
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        thread = Thread(target=self._run, name="engine", daemon=True)
        self.threads.append(thread)
        thread.start()

    def _run(self) -> None:
        """One stream, to its end."""
        run = _Run()
        try:
            own = replace(self.options, progress=Progress())  # which knows what is in flight
            for restored in Stream(self.pipeline, own).run(self._batches(run)):
                work: Work = restored.extra
                if work.take(restored):
                    self._let_go(work, run)
        except Exception:
            log.exception("the engine failed with %d works in flight", len(run.flying))
            self._suspect(run)

    def _let_go(self, work: Work, run: _Run, failed: str | None = None) -> None:
        with self.changed:
            if run.flying.pop(id(work), None) is None:  # a fault ended the stream, and the work is run again
                return
            work.failed = failed or work.failed
            self.changed.notify_all()
        self.done(work)

    def _suspect(self, run: _Run) -> None:
        """Let works of which one made the engine fail run alone, and another stream go on."""
        with self.changed:
            if not run.ended or self.closing:
                self._start()
            run.ended = True  # what still asks for its batches is told that there are none
            works = [*run.flying.values()]
            run.flying.clear()
            guilty = [work for work in works if work.attempts]
            for work in works:
                work.again()
            self.suspects += [work for work in works if work not in guilty]
            self.changed.notify_all()
        for work in guilty:
            work.refusal = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, FAULT)
            self.done(work)

    def _batches(self, run: _Run) -> Iterator[Batch]:
        """Batches of what is in line, as long as this stream is the one to serve it."""
        while works := self._next(run):
            try:
                batch = batch_of(works)
            except FlashDiffusionError as error:
                for work in works:
                    self._let_go(work, run, str(error))
                continue
            yield batch

    def _next(self, run: _Run) -> list[Work]:
        """The works to begin next, waited for; none if this stream is to end."""
        with self.changed:
            while True:
                lone = any(work.attempts for work in run.flying.values())
                if run.ended:
                    return []
                if run.given >= RENEWED and not lone:
                    run.ended = True
                    self._start()
                    return []
                if self.suspects:  # which are run alone
                    if not run.flying:
                        works = [self.suspects.popleft()]
                        break
                elif self.queue and not lone:
                    works = self._alike()
                    break
                elif self.closing and not self.queue:
                    run.ended = True
                    return []
                self.changed.wait()
            run.given += len(works)
            run.flying |= {id(work): work for work in works}
            for work in works:
                work.taken = True
            return works

    def _alike(self) -> list[Work]:
        """The first in line, and others that are like it."""
        first = self.queue[0].alike
        works = [work for work in self.queue if work.alike == first][:TOGETHER]
        for work in works:
            self.queue.remove(work)
        return works
