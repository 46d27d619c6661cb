"""The process that restores. Models lie in it, so that the page's own is quick, and goes on where this one ends."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, get_context, parent_process, resource_tracker
from threading import Lock, Thread
from typing import Any

from flashdiffusion import errors
from flashdiffusion.app.run import FAULT, Stopped, Tell
from flashdiffusion.app.told import Click, Restore
from flashdiffusion.errors import FlashDiffusionError

NAME = "flashdiffusion-models"
_STOP, _LEAVE = "stop", "leave"  # what the page sends beside clicks: end this one, end
_HEED = 0.1  # seconds from one look at whether a click is stopped to the next
_PATIENCE = 3.0  # seconds for a process to end by itself


@dataclass(frozen=True)
class _Ended:
    """A click has ended, or the process is ready for the first. kind, reason: of the error, if it was by one."""

    kind: type[FlashDiffusionError] | None = None
    reason: str = ""

    def check(self) -> None:
        """Raise the error."""
        if self.kind is not None:
            raise self.kind(self.reason)


class WorkerDied(FlashDiffusionError):
    """The process that restores has ended by itself."""


class Worker:
    """A process that does clicks one at a time; where it has ended, the next click has a new one.

    Args:
        make: called in the process; gives what restores. It can be pickled.
    """

    def __init__(self, make: Callable[[], Restore]) -> None:
        self._make, self._turn, self._life, self._closed = make, Lock(), Lock(), False
        self._start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid or 0

    def _start(self) -> None:
        spawn = get_context("spawn")
        with self._life:
            if self._closed:
                raise Stopped
            self._pipe, other = spawn.Pipe()
            self._process = spawn.Process(target=_work, args=(other, self._make), daemon=True, name=NAME)
            with _uninterrupted():
                self._process.start()
        other.close()
        self._ready = False

    def ready(self) -> None:
        """Wait until it can begin a click.

        Raises:
            FlashDiffusionError: it cannot, and why.
        """
        with self._turn:
            self._await(lambda word: None)

    def _await(self, tell: Tell) -> None:
        if not self._process.is_alive():
            self._end()
            self._start()
        if not self._ready:
            while (word := self._receive(_HEED)) is None:
                tell(None)
            if word.kind is not None:  # and it ends
                self._end()
            word.check()
            self._ready = True

    def __call__(self, click: Click, tell: Tell) -> None:
        """Do a click, and tell what it tells; None meanwhile, so that a stop is heard at once.

        Raises:
            FlashDiffusionError: it cannot be done, and why; `WorkerDied` where the process was killed.
        """
        while not self._turn.acquire(timeout=_HEED):
            tell(None)
        try:
            self._await(tell)
            tell(None)
            self._send(click)
            try:
                while not isinstance(word := self._receive(_HEED), _Ended):
                    tell(word)
            except WorkerDied:
                raise
            except BaseException:  # of `tell`, which somebody stopped
                with suppress(WorkerDied):
                    self._send(_STOP)
                    while not isinstance(self._receive(), _Ended):
                        pass
                raise
            word.check()
        finally:
            self._turn.release()

    def _send(self, word: Click | str) -> None:
        try:
            self._pipe.send(word)
        except OSError as error:
            raise self._died() from error

    def _receive(self, seconds: float | None = None) -> Any:
        """The next word; None if there is none by then."""
        try:
            return self._pipe.recv() if self._pipe.poll(seconds) else None
        except (EOFError, OSError) as error:
            raise self._died() from error

    def _died(self) -> WorkerDied:
        """Why there is nothing to come; a new process gets ready meanwhile, if this one could."""
        self._end()
        code = self._process.exitcode or 0
        by = signal.strsignal(-code) if code < 0 else f"code {code}"
        if not self._ready:  # nor would another be
            return WorkerDied(
                f"the models were not loaded: their process ended ({by}); perhaps this machine has too little memory"
            )
        with suppress(Stopped):  # the page ends
            self._start()
        return WorkerDied(
            f"the process that restores ended before it was done ({by}); perhaps this machine ran out of memory, of "
            "which a smaller picture or fewer samples need less. Another has begun: press Restore to try again"
        )

    def _end(self) -> None:
        """Be done with a process that ends by itself."""
        self._pipe.close()
        self._join()

    def close(self) -> None:
        """End it, with what it does."""
        with self._life:
            self._closed = True
        if self._turn.acquire(blocking=False):  # else a click may be on its way through the pipe
            with suppress(OSError):
                self._pipe.send(_LEAVE)
            self._turn.release()
        else:
            self._process.kill()
        self._join()

    def _join(self) -> None:
        self._process.join(_PATIENCE)
        if self._process.is_alive():  # it loads, or makes a long step
            self._process.kill()
            self._process.join()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Have a process that is started here not hear Ctrl+C, which the terminal sends to all: the page ends it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # to start it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in the process -----------------------------------------------------------------------------------------


def _work(pipe: connection.Connection, make: Callable[[], Restore]) -> None:
    """Do clicks until the page has no more."""
    Thread(target=_end_with_page, daemon=True, name="page").start()
    restore: Restore | None = None

    def get_ready() -> None:
        nonlocal restore
        restore = make()

    with suppress(EOFError, OSError):  # the page is gone
        pipe.send(_ended(get_ready))
        while restore is not None and (word := pipe.recv()) != _LEAVE:
            if isinstance(word, Click):  # else it is to stop a click that had ended by itself
                pipe.send(_ended(partial(restore, word, _teller(pipe))))


def _teller(pipe: connection.Connection) -> Tell:
    def tell(word: Any) -> None:
        try:
            heard = pipe.recv() if pipe.poll() else None
            if heard is None:
                pipe.send(word)
        except (EOFError, OSError):  # the page is gone
            heard = _LEAVE
        if heard == _LEAVE:
            sys.exit()
        if heard == _STOP:
            raise Stopped

    return tell


def _ended(call: Callable[[], None]) -> _Ended:
    """Call, and say how it ended."""
    try:
        call()
    except Stopped:
        pass
    except FlashDiffusionError as error:  # a class that the page has: it may not have a plugin's
        kind = next(one for one in type(error).__mro__ if one.__module__ == errors.__name__)
        return _Ended(kind, str(error))
    except Exception:  # of one click; others go on
        traceback.print_exc(file=sys.stderr)
        return _Ended(FlashDiffusionError, FAULT)
    return _Ended()


def _end_with_page() -> None:
    """End at once where the page has been killed, whatever is being done."""
    page = parent_process()
    assert page is not None
    connection.wait([page.sentinel])
    os._exit(1)
