"""A flood of wrong logins, against the real server: pages are answered, memory stays, and a known browser gets in."""

import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.cookiejar import CookieJar
from pathlib import Path
from threading import Event
from urllib.parse import urlencode

import pytest

from portal.core import db
from tests.support import DEADLINE_S, Cast, RunningServer, wait_until

pytestmark = pytest.mark.slow

MAX_GROWTH_MB = 60


class Client:
    """A browser of the real server, without JavaScript. It stays at a refused form."""

    def __init__(self, server: RunningServer, address: str = "") -> None:
        """Args: `address`: where it is, as a proxy on this machine says; empty: on this machine."""
        self._url, self._address = server.url, address
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def open(self, path: str, form: dict[str, str] | None = None) -> tuple[int, str, Message]:
        """Status, page and headers."""
        request = urllib.request.Request(self._url + path, urlencode(form).encode() if form else None)
        request.add_header("Accept-Language", "it")
        if self._address:
            request.add_header("X-Forwarded-For", self._address)
        try:
            with self._opener.open(request, timeout=DEADLINE_S) as answer:
                return answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), error.headers

    def token(self) -> str:
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.open("/login")[1])
        assert found
        return found[1]

    def log_in(self, email: str, password: str, recovery_code: str) -> int:
        token = self.token()
        status, page, _ = self.open("/login", {"email": email, "password": password, "csrf_token": token})
        if status != 200 or "recovery" not in page:
            return status
        return self.open("/login/totp", {"recovery": recovery_code, "csrf_token": token})[0]


@dataclass
class Answers:
    """How many of each status came to a flood, and pages and headers of those that were refused as too many."""

    statuses: Counter[int] = field(default_factory=Counter)
    refused: list[tuple[str, Message]] = field(default_factory=list)


@contextmanager
def flood(attacker: Client, connections: int) -> Iterator[Answers]:
    """Wrong logins, one after the other on each connection, while the block runs."""
    answers, ended, token = Answers(), Event(), attacker.token()

    def send_wrong_logins(number: int) -> None:
        while not ended.is_set():
            form = {"email": f"nobody{number}@acme.example", "password": "a wrong one", "csrf_token": token}
            status, page, headers = attacker.open("/login", form)
            answers.statuses[status] += 1
            if status == 503:
                answers.refused.append((page, headers))

    with ThreadPoolExecutor(connections) as pool:
        try:
            for number in range(connections):
                pool.submit(send_wrong_logins, number)
            yield answers
        finally:
            ended.set()


def read_memory_mb(pid: int, name: str) -> float:
    """What is in use (VmRSS), or was at most (VmHWM)."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024 / 1e6


def test_a_flood_of_logins_takes_little_memory_and_no_page_and_keeps_no_known_browser_out(
    serve_alone: Callable[..., RunningServer], cast: Cast, conn: db.Connection
) -> None:
    server = serve_alone("web")
    known, attacker = Client(server), Client(server)
    assert known.log_in(cast.alice.email, cast.alice.password, cast.alice.recovery_codes[0]) == 200
    conn.execute("DELETE FROM login_sessions")
    # What is under test is the flood; the address would be refused after a hundred.
    conn.execute("DELETE FROM throttle_buckets")
    before_mb = read_memory_mb(server.process.pid, "VmRSS")
    with flood(attacker, 80) as answers:
        wait_until(lambda: answers.statuses[503] >= 80 and answers.statuses[401] >= 4, deadline_s=60)
        assert attacker.open("/healthz")[0] == 200
        assert known.log_in(cast.alice.email, cast.alice.password, cast.alice.recovery_codes[1]) == 200
        assert known.open("/profile")[1].count(cast.alice.email)
        # Those that are refused before they are read leave their row, too.
        query = "SELECT 1 FROM audit_log WHERE action = 'login.throttled' AND actor = '-' AND address = '127.0.0.1'"
        wait_until(lambda: bool(conn.execute(query).fetchone()))
        growth_mb = read_memory_mb(server.process.pid, "VmHWM") - before_mb
    assert growth_mb <= MAX_GROWTH_MB
    page, headers = answers.refused[0]
    assert headers["Retry-After"] == "5"
    assert '<html lang="it">' in page
    assert "In questo momento accedono troppe persone." in page
    assert 'href="login/link"' in page


def test_a_flood_from_one_address_keeps_no_stranger_at_another_one_out(
    serve_alone: Callable[..., RunningServer], cast: Cast
) -> None:
    server = serve_alone("web", PORTAL_WEB_TRUSTED_PROXIES="127.0.0.1")
    with flood(Client(server, "203.0.113.7"), 20) as answers:
        wait_until(lambda: answers.statuses[503] >= 20)
        for code in cast.alice.recovery_codes[:4]:
            stranger = Client(server, "192.0.2.1")
            assert stranger.log_in(cast.alice.email, cast.alice.password, code) == 200
