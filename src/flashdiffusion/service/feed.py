"""The engine of a model, fed by a queue: requests join those that are stepping."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from http import HTTPStatus
from threading import Condition, Thread

from flashdiffusion.engine.options import StreamOptions
from flashdiffusion.engine.stream import Stream
from flashdiffusion.errors import FlashDiffusionError
from flashdiffusion.pipeline import Batch, FlashPipeline
from flashdiffusion.service.work import Work, batch_of

TOGETHER = 16  # works that are alike and are given their start together
RENEWED = 1000  # works after which another stream takes over, and all that one keeps by settings and sizes is let go
FAULT = "a fault of the service; it is in its log"
log = logging.getLogger("flashdiffusion.service")


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
        flying: dict[int, Work] = {}
        try:
            for restored in Stream(self.pipeline, self.options).run(self._batches(flying)):
                work: Work = restored.extra
                if work.take(restored):
                    self._let_go(work, flying)
        except Exception:
            log.exception("the engine failed with %d works in flight", len(flying))
            self._suspect(flying)

    def _let_go(self, work: Work, flying: dict[int, Work]) -> None:
        with self.changed:
            del flying[id(work)]
            self.changed.notify_all()
        self.done(work)

    def _suspect(self, flying: dict[int, Work]) -> None:
        """Let works of which one made the engine fail run alone, and another stream go on."""
        guilty = [work for work in flying.values() if work.attempts]
        with self.changed:
            for work in flying.values():
                work.again()
            self.suspects += [work for work in flying.values() if work not in guilty]
            self._start()
        for work in guilty:
            work.fail(HTTPStatus.INTERNAL_SERVER_ERROR, FAULT)
            self.done(work)

    def _batches(self, flying: dict[int, Work]) -> Iterator[Batch]:
        """Batches of what is in line, as long as this stream is the one to serve it."""
        given = 0
        while works := self._next(flying, given):
            given += len(works)
            try:
                batch = batch_of(works)
            except FlashDiffusionError as error:
                for work in works:
                    work.failed = str(error)
                    self._let_go(work, flying)
                continue
            yield batch

    def _next(self, flying: dict[int, Work], given: int) -> list[Work]:
        """The works to begin next, waited for; none if this stream is to end."""
        with self.changed:
            if given >= RENEWED:
                self._start()
                return []
            while True:
                lone = any(work.attempts for work in flying.values())
                if self.suspects:  # which are run alone
                    if not flying:
                        works = [self.suspects.popleft()]
                        break
                elif self.queue and not lone:
                    works = self._alike()
                    break
                elif self.closing and not self.queue:
                    return []
                self.changed.wait()
            flying |= {id(work): work for work in works}
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
