"""The server: listens, and at a signal finishes what was accepted before it ends."""

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from flashdiffusion.service.app import create_app
from flashdiffusion.service.service import Service


class Server(uvicorn.Server):
    """A server that at SIGTERM or SIGINT goes on until what was accepted is done and fetched; at a second ends at once.

    Args:
        began: called when requests are answered.
    """

    def __init__(self, service: Service, access_log: bool = False, began: Callable[[], None] = lambda: None) -> None:
        level = "info" if access_log else "warning"
        super().__init__(
            uvicorn.Config(create_app(service), log_level=level, access_log=access_log, timeout_keep_alive=30)
        )
        self.service, self.began = service, began

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.began()

    async def on_tick(self, counter: int) -> bool:
        if self.service.drained:
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.service.draining:
            self.should_exit = self.force_exit = True
        self.service.drain()


def serve(service: Service, own: socket.socket, access_log: bool, began: Callable[[], None]) -> None:
    """Answer requests until a signal ends it."""
    try:
        Server(service, access_log, began).run([own])
    finally:
        service.close()
