"""What the server's threads do with an application's answer."""

import asyncio
import threading
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import pytest

from portal.web.asgi import ThreadedApplication
from tests.support import DEADLINE_S

REQUEST = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "raw_path": b"/",
    "query_string": b"",
    "headers": [(b"host", b"portal")],
    "server": ("127.0.0.1", 80),
    "client": ("127.0.0.1", 1),
}


class FailingAnswer:
    """What an application returns whose database is locked when the first line is read."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        raise OSError("locked")

    def close(self) -> None:
        self.closed.set()


async def receive() -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: MutableMapping[str, Any]) -> None:
    raise AssertionError(f"nothing is to be answered, but {message} was")


def test_an_answer_that_fails_at_its_first_piece_is_closed() -> None:
    answer = FailingAnswer()

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return answer

    threaded = ThreadedApplication(application, 1, 1000, [], lambda environ: "", {})
    with pytest.raises(OSError, match="locked"):
        asyncio.run(threaded(dict(REQUEST), receive, send))
    assert answer.closed.wait(DEADLINE_S)
