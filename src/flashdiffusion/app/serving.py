"""The page served: by default to this machine alone, without a word to any other."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

from flashdiffusion.app.limits import Limits
from flashdiffusion.app.told import Restore
from flashdiffusion.app.worker import Worker
from flashdiffusion.errors import InputError, note
from flashdiffusion.hosting import LOOPBACK, MEGA, check_port, is_loopback, listen


@dataclass(frozen=True)
class Place:
    """Where the page is served. port: 0 for one that is free.

    Raises:
        InputError: no port.
    """

    host: str = LOOPBACK
    port: int = 7860

    def __post_init__(self) -> None:
        check_port(self.port)

    def taken(self) -> int:
        """The port, once it is known to be free; raises InputError if it is not, or the host is not this machine's."""
        with listen(self.host, self.port) as probe:
            return int(probe.getsockname()[1])


def serve(
    place: Place,
    limits: Limits,
    make: Callable[[], Restore],
    ready: Callable[[str], None] = print,
    check: bool = False,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        make: gives what restores; called in a process of its own, so that the page is there before torch is.
        ready: called with the page's address once it can be opened.
        check: whether the page waits for `make`, so that what is wrong is said here and not to visitors.

    Raises:
        InputError: Gradio is not installed, the place is taken, or what `make` raises.
    """
    port = place.taken()
    if find_spec("gradio") is None:
        raise InputError('the page needs Gradio: pip install "flashdiffusion[app]"')
    os.environ["HF_HUB_OFFLINE"] = "1"  # the models are embedded
    temporary = TemporaryDirectory(prefix="flashdiffusion-app-")
    with _terminated(), temporary as folder, closing(Worker(make)) as worker:  # which loads while Gradio does
        page, clicks = _built(Path(folder), limits, worker)
        if check:
            worker.ready()
        from flashdiffusion.app.page import style, theme

        _, address, _ = page.launch(
            server_name=place.host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=int(limits.megabytes * MEGA),
            show_error=True,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            theme=theme(),
            css=style(),
        )
        try:
            ready(address)
            if not is_loopback(place.host):
                note(f"served on {place.host}: whoever reaches this machine can use it, without a password")
            while True:
                sleep(3600)
        except KeyboardInterrupt:
            pass
        finally:
            clicks.runs.stop_all()
            page.close(verbose=False)


def _built(folder: Path, limits: Limits, restore: Restore) -> tuple[Any, Any]:
    """The page and its clicks. What Gradio reads from the environment is set before it is loaded."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    from flashdiffusion.app.clicks import Clicks
    from flashdiffusion.app.page import build

    (folder / "runs").mkdir()
    clicks = Clicks(restore, limits, folder / "runs")
    return build(clicks), clicks


@contextmanager
def _terminated() -> Iterator[None]:
    """End as if interrupted where the process is asked to end, so that its files go."""

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
