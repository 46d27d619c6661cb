"""What the page and the service share: where they listen, and the unit of their limits."""

import socket
from ipaddress import ip_address

from flashdiffusion.errors import InputError

LOOPBACK = "127.0.0.1"  # where both listen unless told otherwise
MEGA = 1_000_000


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, is reached from this machine alone."""
    try:
        return host == "localhost" or ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def check_port(port: int) -> None:
    """Raise InputError unless it is a port, or 0."""
    if not 0 <= port < 2**16:
        raise InputError(f"port is {port}; expected 0 to 65535, 0 for one that is free")


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens; port 0 takes one that is free.

    Raises:
        InputError: an address that is taken or unknown here, or no port.
    """
    check_port(port)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --host or --port"
        ) from error
