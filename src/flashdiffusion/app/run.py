"""A click's work in a thread of its own: it tells how far it is, and ends where it is when it is stopped."""

import sys
import traceback
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from secrets import token_hex
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

from flashdiffusion.errors import FlashDiffusionError, InputError, counted

Tell = Callable[[Any], None]  # with a word, or None where there is none and one asks whether to go on
LOST = 3600.0  # seconds after which a click in line, whose page is gone, is nobody's
FAULT = "This went wrong inside the program, not by your picture; its log says more. Other settings may work."


class Stopped(Exception):
    """Somebody stopped the run."""


class Failure(str):
    """Why a run ended without a result, for the user."""


class Run:
    """Work that is given a function to tell what it has reached, which raises `Stopped` once it is stopped."""

    def __init__(self, work: Callable[[Tell], None]) -> None:
        self._work, self._told = work, SimpleQueue[Any]()
        self._stop, self._ended, self._stopped = Event(), Event(), False
        self._thread = Thread(target=self._do, name="flashdiffusion-app-run", daemon=True)

    @property
    def stopped(self) -> bool:
        """Whether it was stopped, and so has no result."""
        return self._stopped

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
        if word is not None:
            self._told.put(word)

    def _do(self) -> None:
        try:
            self._work(self._tell)
        except Stopped:
            self._stopped = True
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
    """The run of each visitor, from when they ask for it: one at a time of each, which they can stop.

    Args:
        waiting: clicks in line at most, of which some may be stopped and not out of it yet.
    """

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self._line = dict[str, tuple[str, float]]()  # whose each ticket is, and since when
        self._waiting, self._own = dict[str, str](), dict[str, Run]()  # tickets and runs by visitor
        self._lock = Lock()

    def ask(self, visitor: str) -> str:
        """Put a visitor in line. Their ticket, for `begin`.

        Raises:
            InputError: they are in line, or their run is on its way; or the line is full.
        """
        with self._lock:
            for ticket in [one for one, (_, since) in self._line.items() if monotonic() - since > LOST]:
                self._leave(ticket)
            own = self._own.get(visitor)
            if visitor in self._waiting or (own is not None and not own.wait(0)):
                raise InputError("your picture is in line, or being restored; wait for it, or press Stop first")
            if len(self._line) >= self.waiting:
                raise InputError(f"{counted(len(self._line), 'picture')} in line, as many as may be; try again soon")
            ticket = self._waiting[visitor] = token_hex(8)
            self._line[ticket] = visitor, monotonic()
            return ticket

    def begin(self, visitor: str, ticket: str, run: Run) -> Run:
        """Keep the run of a visitor whose turn it is.

        Raises:
            Stopped: they stopped it while they were in line, or never were.
        """
        with self._lock:
            known = ticket in self._line and self._waiting.get(visitor) == ticket
            self._leave(ticket)
            if not known:
                raise Stopped
            self._own[visitor] = run
        return run

    def leave(self, ticket: str) -> None:
        """Take a click out of the line, if it is still there."""
        with self._lock:
            self._leave(ticket)

    def _leave(self, ticket: str) -> None:
        if ticket in self._line:
            visitor, _ = self._line.pop(ticket)
            if self._waiting.get(visitor) == ticket:
                del self._waiting[visitor]

    def stop(self, visitor: str) -> bool:
        """Stop a visitor's run, or give up the click that they have in line. Whether there was one."""
        with self._lock:
            waited, run = self._waiting.pop(visitor, None) is not None, self._own.pop(visitor, None)
        if run is None or run.wait(0):
            return waited
        run.stop()
        return True

    def stop_all(self) -> None:
        """Stop every run."""
        for visitor in [*self._own, *self._waiting]:
            self.stop(visitor)
