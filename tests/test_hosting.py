"""Where the page and the service listen."""

import socket

import pytest

from flashdiffusion.errors import InputError
from flashdiffusion.hosting import LOOPBACK, is_loopback, listen


@pytest.mark.parametrize("host", [LOOPBACK, "localhost", "::1", "127.0.0.2", "::1%lo"])
def test_what_is_reached_from_this_machine_alone(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_what_others_reach(host):
    assert not is_loopback(host)


def test_takes_a_port_that_is_free_and_says_which_is_not():
    with listen(LOOPBACK, 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on {LOOPBACK} port {port}: .*; choose another --host or"):
            listen(LOOPBACK, port)
    with listen(LOOPBACK, port) as again, socket.create_connection((LOOPBACK, port), 5):
        assert again.getsockname()[1] == port


def test_refuses_what_is_no_address():
    with pytest.raises(InputError, match=r"cannot listen on no\.such\.host\.invalid port 80"):
        listen("no.such.host.invalid", 80)


@pytest.mark.parametrize("port", [-1, 65536])
def test_refuses_what_is_no_port(port):
    with pytest.raises(InputError, match=f"port is {port}; expected 0 to 65535, 0 for one that is free"):
        listen(LOOPBACK, port)
