"""What a worker of the page may be given in place of models: it needs no torch, so that a worker is there at once."""

import os
import time
from pathlib import Path

from flashdiffusion.app.run import Tell
from flashdiffusion.app.told import Click, Counting, Restore
from flashdiffusion.errors import CheckpointError


class PluginError(CheckpointError):
    """An error of a user's own file, which the page's process need not have."""


def obedient() -> Restore:
    """Does what the picture's name says: a number of words, or an end of its own."""

    def restore(click: Click, tell: Tell) -> None:
        match click.picture.name:
            case "refused":
                raise PluginError("damaged; expected another")
            case "broken":
                raise ZeroDivisionError("a fault of ours")
            case "lost":
                tell(lambda: "no other process can have this")
            case "silent":
                tell(Counting("first"))
                time.sleep(1)
                tell(Counting("second"))
                tell(Counting("third"))
            case "last":  # ends as soon as it has told
                tell(Counting("last"))
            case count:
                for n in range(int(count)):
                    tell(Counting(str(n)))
                    time.sleep(0.02)

    return restore


def slow(file: Path) -> Restore:
    """Is made once there is a file."""
    while not file.exists():
        time.sleep(0.02)
    return obedient()


def unwell() -> Restore:
    """Cannot be made."""
    raise CheckpointError("no weights there; expected a file of them")


def deadly() -> Restore:
    """Ends its process."""
    os._exit(7)


def interrupted() -> Restore:
    """Hears Ctrl+C, as all processes of a terminal do, before it does anything."""
    import signal

    os.kill(os.getpid(), signal.SIGINT)
    return obedient()
