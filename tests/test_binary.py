"""The single binary, alone in an empty folder, with no Python and nothing else on PATH."""

import http.cookiejar
import re
import socket
import struct
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import CommandId
from tests.serving import stop_process
from tests.support import ROOT, find_free_port, read_demo_text, read_demo_value, wait_until

pytestmark = pytest.mark.slow

BINARY = ROOT / "dist" / "smpp-portal"


@pytest.fixture(scope="session")
def binary() -> Path:
    """Builds it, unless it is up to date; two workers never build at the same time."""
    with (ROOT / ".venv" / ".building").open("w") as lock:
        flock(lock, LOCK_EX)
        subprocess.run(["make", "--silent", "binary"], cwd=ROOT, check=True)
    return BINARY


@pytest.fixture
def environment() -> dict[str, str]:
    ports = [str(find_free_port()) for _ in range(3)]
    return dict(zip(("PORTAL_WEB_PORT", "PORTAL_SMPP_PORT", "PORTAL_SMPP_TLS_PORT"), ports, strict=True)) | {"PATH": ""}


@pytest.fixture
def started(binary: Path, tmp_path: Path, environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The demo, running; its process and what it printed."""
    process = subprocess.Popen([binary, "demo"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    assert process.stdout
    printed = ""
    while "Data  " not in printed:
        line = process.stdout.readline().decode()
        assert line, "it ended before it was ready"
        printed += line
    yield process, printed
    stop_process(process)
    process.stdout.close()


class Browser:
    """Follows redirects, keeps cookies, fills forms in as they came."""

    def __init__(self):
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def get(self, url):
        with self._opener.open(url, timeout=10) as answer:
            self.url, self.page = answer.url, answer.read().decode()

    def submit(self, **fields):
        hidden = dict(re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', self.page))
        data = urllib.parse.urlencode(hidden | fields).encode()
        request = urllib.request.Request(self.url, data, {"Referer": self.url, "Origin": origin(self.url)})
        with self._opener.open(request, timeout=10) as answer:
            self.url, self.page = answer.url, answer.read().decode()


def origin(url):
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def test_the_demo_can_be_logged_in_to(started):
    _, printed = started
    browser = Browser()
    browser.get(read_demo_value(printed, "Open"))
    assert browser.url.endswith("/login")
    browser.submit(email=read_demo_value(printed, "E-mail"), password=read_demo_value(printed, "Password"))
    browser.submit(code=read_demo_value(printed, "TOTP code"))
    for account in ("smpp-demo-1", "smpp-demo-2", "sms-demo-1"):
        assert account in browser.page
    browser.get(f"{read_demo_value(printed, 'Open')}/accounts/smpp-demo-1")
    assert "smpp-demo-1" in browser.page


def test_a_client_can_bind(started, environment):
    _, printed = started
    bind = pdu.Bind(
        CommandId.BIND_TRANSCEIVER, 1, read_demo_value(printed, "system_id"), read_demo_value(printed, "password")
    )
    with socket.create_connection(("127.0.0.1", int(environment["PORTAL_SMPP_PORT"])), timeout=10) as client:
        client.sendall(bind.encode())
        _, command, status, sequence = struct.unpack(">IIII", client.recv(16))
    assert (command, status, sequence) == (CommandId.BIND_TRANSCEIVER_RESP, 0, 1)


def test_its_own_command_sends_a_message(started, tmp_path, environment):
    _, printed = started
    command = read_demo_text(r"^  Send +(.+)$", printed)
    done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "stat:DELIVRD" in done.stdout, done.stderr


@pytest.mark.parametrize("kill", [False, True], ids=["told to stop", "killed"])
def test_nothing_of_it_stays_behind(started, environment, kill):
    process, _ = started
    if kill:
        process.kill()
        process.wait()
    else:
        assert stop_process(process) == 0
    ports = [int(port) for name, port in environment.items() if name.endswith("PORT")]

    def listened_on():
        with socket.socket() as probe:
            return [port for port in ports if probe.connect_ex(("127.0.0.1", port)) == 0]

    wait_until(lambda: not listened_on())


def test_commands_work(binary, tmp_path, environment):
    done = subprocess.run(
        [binary, "init", "--email", "olga@portal.example"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "/setup/" in done.stdout
    done = subprocess.run([binary, "check"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_is_small_enough_to_carry(binary):
    assert binary.stat().st_size < 40_000_000
