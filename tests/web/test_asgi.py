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

    threaded = ThreadedApplication(application, 1, 1000, [], lambda environ: ("", ""), lambda language: "", {})
    with pytest.raises(OSError, match="locked"):
        asyncio.run(threaded(dict(REQUEST), receive, send))
    assert answer.closed.wait(DEADLINE_S)


@pytest.mark.parametrize(
    ("threads", "visitors", "statuses"),
    [
        (8, "1 1 1 1 2 3 4", [200, 200, 503, 503, 200, 200, 503]),
        (8, "2001:db8::1 2001:db8::2 2001:db8::3 2001:db8:0:1::1", [200, 200, 503, 200]),
        (8, "1 2 3 4 5/alice1 5/alice1 5/bob1", [200, 200, 200, 200, 200, 503, 200]),
        # Whoever has an account can have many browsers.
        (8, "1 2 3 4 5/alice1 5/alice2 5/alice3 5/bob1", [200, 200, 200, 200, 200, 200, 503, 200]),
        (8, "1 2 3 4 5/ann1 5/bob1 5/cat1 5/dan1 5/eve1", [200, 200, 200, 200, 200, 200, 200, 200, 503]),
        # Who finds no place of the known is a stranger.
        (8, "5/alice1 5/alice1 5/alice1 5/alice1", [200, 200, 200, 503]),
        (4, "1 2 3 4/alice1", [200, 200, 503, 200]),
        (1, "1 2", [200, 503]),
    ],
)
def test_one_network_leaves_places_to_log_in_to_others_and_strangers_leave_threads(
    threads: int, visitors: str, statuses: list[int]
) -> None:
    has_begun = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        assert has_begun.wait(DEADLINE_S)
        start_response("200 OK", [])
        return []

    def find_browser(environ: dict[str, Any]) -> tuple[str, str]:
        browser = environ.get("HTTP_COOKIE", "")
        return browser, browser.rstrip("123")

    threaded = ThreadedApplication(application, threads, 1000, [], find_browser, lambda language: "busy", {})

    async def log_in(visitor: str) -> int:
        address, _, browser = visitor.partition("/")
        found: list[int] = []

        async def note_status(message: MutableMapping[str, Any]) -> None:
            found.append(message.get("status", 0))

        scope = REQUEST | {
            "method": "POST",
            "raw_path": b"/login",
            "headers": [(b"cookie", browser.encode())] if browser else [],
            "client": (address if ":" in address else f"192.0.2.{address}", 1),
        }
        await threaded(scope, receive, note_status)
        return found[0]

    async def log_in_together() -> list[int]:
        tasks = [asyncio.create_task(log_in(each)) for each in visitors.split()]
        # Each runs until it waits for a thread.
        await asyncio.sleep(0)
        has_begun.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(log_in_together()) == statuses
