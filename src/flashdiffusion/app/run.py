"""A click's work in a thread of its own: it tells how far it is, and ends where it is when it is stopped."""

import sys
import traceback
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

from flashdiffusion.errors import FlashDiffusionError

Tell = Callable[[Any], None]
FAULT = "This went wrong inside the program, not by your picture; its log says more. Other settings may work."


class Stopped(Exception):
    """Somebody stopped the run."""


class Failure(str):
    """Why a run ended without a result, for the user."""


class Run:
    """Work that is given a function to tell what it has reached, which raises `Stopped` once it is stopped."""

    def __init__(self, work: Callable[[Tell], None]) -> None:
        self._work, self._told = work, SimpleQueue[Any]()
        self._stop, self._ended = Event(), Event()
        self._thread = Thread(target=self._do, name="flashdiffusion-app-run", daemon=True)

    def stop(self) -> None:
        """Let the work end at its next word; nothing if it has."""
        self._stop.set()

    def wait(self, seconds: float) -> bool:
        """Wait until the work has ended. Whether it has."""
        return self._ended.wait(seconds)

    def events(self) -> Iterator[Any]:
        """Start, and give what the work tells, a `Failure` at the end if it fails; leaving off stops it.

        Where the work is faster than who listens, of words of one kind in a row the last is given.
        """
        self._thread.start()
        try:
            while True:
                word = self._told.get()
                while (following := self._next()) is not None and type(following) is type(word):
                    word = following
                yield from [one for one in (word, following) if one not in (None, _END)]
                if _END in (word, following):
                    return
        finally:
            self.stop()

    def _next(self) -> Any:
        try:
            return self._told.get_nowait()
        except Empty:
            return None

    def _tell(self, word: Any) -> None:
        if self._stop.is_set():
            raise Stopped
        self._told.put(word)

    def _do(self) -> None:
        try:
            self._work(self._tell)
        except Stopped:
            pass
        except FlashDiffusionError as error:
            self._told.put(Failure(error))
        except Exception:  # of one click; others go on
            traceback.print_exc(file=sys.stderr)
            self._told.put(Failure(FAULT))
        finally:
            self._ended.set()
            self._told.put(_END)


_END = object()


class Runs:
    """The run of each visitor, so that they stop their own."""

    def __init__(self) -> None:
        self._own: dict[str, Run] = {}
        self._lock = Lock()

    def begin(self, visitor: str, run: Run) -> Run:
        """Keep a visitor's run, and stop the one before."""
        with self._lock:
            before, self._own[visitor] = self._own.get(visitor), run
        if before is not None:
            before.stop()
        return run

    def stop(self, visitor: str) -> bool:
        """Stop a visitor's run. Whether there was one on its way."""
        with self._lock:
            run = self._own.pop(visitor, None)
        if run is None or run.wait(0):
            return False
        run.stop()
        return True

    def stop_all(self) -> None:
        """Stop every run."""
        with self._lock:
            runs, self._own = [*self._own.values()], {}
        for run in runs:
            run.stop()
