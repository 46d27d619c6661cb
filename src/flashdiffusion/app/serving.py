"""The page served: by default to this machine alone, without a word to any other."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from time import sleep
from typing import TYPE_CHECKING, Any

from flashdiffusion.app.damages import FACES
from flashdiffusion.app.limits import Limits
from flashdiffusion.errors import InputError, note
from flashdiffusion.hosting import LOOPBACK, MEGA, check_port, is_loopback, listen

if TYPE_CHECKING:
    from flashdiffusion.app.restoring import Models


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
    place: Place, limits: Limits, make_models: "Callable[[], Models]", ready: Callable[[str], None] = print
) -> None:
    """Serve the page until it is interrupted.

    Args:
        make_models: called when models are first needed, so that the page is there before torch is.
        ready: called with the page's address once it can be opened.

    Raises:
        InputError: Gradio is not installed, or the place is taken.
    """
    port = place.taken()
    with TemporaryDirectory(prefix="flashdiffusion-app-") as folder, _terminated():
        page, clicks = _built(Path(folder), limits, make_models)
        Thread(target=_warm, args=(lambda: clicks.models,), daemon=True, name="models").start()
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


def _built(folder: Path, limits: Limits, make_models: "Callable[[], Models]") -> tuple[Any, Any]:
    """The page and its clicks. What Gradio reads from the environment is set before it is loaded."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    os.environ["HF_HUB_OFFLINE"] = "1"  # the models are embedded
    try:
        from flashdiffusion.app.page import build
    except ImportError as error:
        if (error.name or "").split(".")[0] != "gradio":
            raise
        raise InputError('the page needs Gradio: pip install "flashdiffusion[app]"') from error
    from flashdiffusion.app.clicks import Clicks

    (folder / "runs").mkdir()
    clicks = Clicks(make_models, limits, folder / "runs")
    return build(clicks), clicks


def _warm(models: "Callable[[], Models]") -> None:
    """Load the model of the picture that is there, while the page is looked at."""
    with suppress(Exception):  # the first click says what is wrong
        models()(FACES)


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
