"""What strangers can do to the web server itself: the real one, for a test client has no connections."""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from portal.supervisor import raise_file_limit
from tests.support import DEADLINE_S, Server


@pytest.fixture
def open_sockets() -> Iterator[ExitStack]:
    """Closed at the test's end; there may be many."""
    raise_file_limit()
    with ExitStack() as opened:
        yield opened


def connect(server: Server, opened: ExitStack, octets: bytes) -> socket.socket:
    made = opened.enter_context(socket.create_connection(("127.0.0.1", urlsplit(server.url).port), DEADLINE_S))
    made.sendall(octets)
    return made


def test_requests_that_never_end_keep_nobody_out(server: Server, open_sockets: ExitStack) -> None:
    for _ in range(900):
        connect(server, open_sockets, b"GET /login HTTP/1.1\r\nHost: portal\r\n")
    with urllib.request.urlopen(f"{server.url}/login", timeout=DEADLINE_S) as answer:
        assert answer.status == 200


def test_the_oldest_connections_make_room(server: Server, open_sockets: ExitStack) -> None:
    first = connect(server, open_sockets, b"GET /login HTTP/1.1\r\n")
    for _ in range(850):
        connect(server, open_sockets, b"GET /login HTTP/1.1\r\n")
    assert first.recv(100) == b""


def test_a_body_that_is_too_large_is_not_taken(server: Server, open_sockets: ExitStack) -> None:
    head = b"POST /login HTTP/1.1\r\nHost: portal\r\nContent-Length: 900000000\r\n\r\n"
    assert connect(server, open_sockets, head).recv(1000).startswith(b"HTTP/1.1 413")
