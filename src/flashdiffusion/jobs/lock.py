"""One run at a time into one results file."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashdiffusion.errors import InputError

if sys.platform != "win32":
    import fcntl


@contextmanager
def locked(results: str | Path) -> Iterator[None]:
    """Hold a results file for one run; the lock ends with the process, however that ends. Windows has no such lock.

    Raises:
        InputError: another run holds it.
    """
    if sys.platform == "win32":
        yield
        return
    results = Path(results).resolve()
    path = results.with_name(f".{results.name}.lock")
    stream = _take(path, results)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held, so that nobody else's is removed
        os.close(stream)


def _take(path: Path, results: Path) -> int:
    while True:
        stream = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(stream, 200).decode(errors="replace") or "another process"
            os.close(stream)
            raise InputError(
                f"{results} is being written by another run ({holder}); wait for it, or choose another --out"
            ) from None
        except OSError:  # a file system without locks
            pass
        if _is(stream, path):
            os.ftruncate(stream, 0)
            os.write(stream, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return stream
        os.close(stream)  # the run that held it has removed it in between


def _is(stream: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream), path.stat())
    except FileNotFoundError:
        return False
