"""How many connections a server takes, and how long each may be silent."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from tests.services.processes import started

NOWHERE = "127.0.0.1:1/127.0.0.1:2"


@contextmanager
def gateway(*flags: str) -> Iterator[tuple[str, int]]:
    with started("gateway", "--pipelines", NOWHERE, *flags) as process:
        host, _, port = process.target().rpartition(":")
        yield host, int(port)


def closed_after_s(connection: socket.socket) -> float:
    """Seconds until the server closes a connection."""
    began = time.monotonic()
    connection.settimeout(30)
    try:
        while connection.recv(4_096):
            continue
    except ConnectionError:
        return time.monotonic() - began
    return time.monotonic() - began


@pytest.mark.parametrize("first", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], ids=["nothing", "half a handshake"])
def test_a_connection_without_its_handshake_is_closed(first: bytes) -> None:
    with gateway("--server.handshake-seconds=1") as address, closing(socket.create_connection(address)) as connection:
        connection.sendall(first)
        assert 0.5 < closed_after_s(connection) < 20


def test_connections_beyond_the_limit_are_closed_and_the_next_find_room() -> None:
    with gateway("--server.max-connections=5") as address:
        with ExitStack() as stack:
            held = [stack.enter_context(closing(socket.create_connection(address))) for _ in range(5)]
            assert all(connection.recv(1) for connection in held), "the server has sent its settings to each"
            with closing(socket.create_connection(address)) as sixth:
                assert closed_after_s(sixth) < 10
        deadline = time.monotonic() + 20
        while not is_accepted(address):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def is_accepted(address: tuple[str, int]) -> bool:
    """Whether the server sends anything on a new connection."""
    with closing(socket.create_connection(address)) as connection:
        connection.settimeout(10)
        try:
            return bool(connection.recv(1))
        except ConnectionError:
            return False
