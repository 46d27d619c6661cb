"""A service of the tiny model of photographs, in a thread of its own."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from flashdiffusion.hosting import listen
from flashdiffusion.jobs import ModelChoice
from flashdiffusion.service.options import ServiceOptions
from flashdiffusion.service.server import Server
from flashdiffusion.service.service import Service

BLUR = {"physics": "gaussian-blur:std=1", "noise_std": "0.02"}
QUICK = BLUR | {"method": "ae"}  # one look of the severity encoder
STEPS = BLUR | {"method": "latent-dps", "steps": "6"}
ENDLESS = BLUR | {"method": "latent-dps", "steps": "1000"}


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@dataclass
class Running:
    """A service that listens."""

    url: str
    service: Service
    http: httpx2.Client

    def post(self, content: bytes, data: dict[str, str], name: str = "picture.png", path: str = "/v1/restore", **more):
        """Post a file with options."""
        files = [("file", (name, content)), *(("attachment", one) for one in more.pop("attachments", ()))]
        return self.http.post(path, files=files, data=data, **more)


@contextmanager
def running(model: Path, access_log: bool = False, **options) -> Iterator[Running]:
    """Serve it; without limits that a test does not name."""
    own = listen("127.0.0.1", 0)
    service = Service({"tiny": ModelChoice(str(model), "cpu")}, ServiceOptions(**options))
    began = threading.Event()
    server = Server(service, access_log, began.set)
    thread = threading.Thread(target=server.run, args=([own],))
    thread.start()
    assert began.wait(30)
    url = f"http://127.0.0.1:{own.getsockname()[1]}"
    try:
        with httpx2.Client(base_url=url, timeout=60) as http:
            yield Running(url, service, http)
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive() and not service.folder.exists()


def record_of(answer: httpx2.Response) -> dict:
    """The record of an answer that is a picture."""
    return json.loads(answer.headers["flashdiffusion-record"])
