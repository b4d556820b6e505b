"""How quickly the pages come: an account's home beside the least that a Flask page of that size can do (`bare.py`).

    .venv/bin/python bench/web.py [SECONDS]

On a data folder with the demo's weeks of history it starts the real web process and the bare one with as many threads,
and lets wrk ask each in turn, three times SECONDS (5) each. Prints one table, of the medians of the three.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from flask import Flask
from flask.sessions import SecureCookieSessionInterface

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from portal import demo
from portal.core import config as settings
from portal.core import db
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.people import login_sessions, users
from portal.web.app import create_app
from tests.support import find_free_port, wait_until

SECONDS, RUNS, CONNECTIONS = 5, 3, 16
MIN_RATIO = 0.7
_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Page:
    """An address with the cookie that it wants."""

    name: str
    url: str
    cookie: str

    def fetch_html(self) -> bytes:
        with urllib.request.urlopen(urllib.request.Request(self.url, headers={"Cookie": self.cookie})) as answer:
            content: bytes = answer.read()
        return content

    def is_ready(self) -> bool:
        try:
            return bool(self.fetch_html())
        except OSError:
            return False


@dataclass(frozen=True)
class Rate:
    """Requests a second, and the 99th percentile of their milliseconds."""

    requests: float
    p99: float


def run_wrk(page: Page, seconds: int) -> Rate:
    """Let wrk ask for a page with all its connections for some seconds."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-H", f"Cookie: {page.cookie}", page.url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if re.search(r"Non-2xx|Socket errors", output):
        raise SystemExit(f"{page.name}: some requests failed\n{output}")
    requests, p99 = re.search(r"Requests/sec:\s+([\d.]+)", output), re.search(r"99%\s+([\d.]+)(us|ms|s)\b", output)
    assert requests, output
    assert p99, output
    return Rate(float(requests[1]), float(p99[1]) * _UNITS_MS[p99[2]])


@contextmanager
def running_server(*command: object) -> Iterator[None]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
    with subprocess.Popen([sys.executable, *map(str, command)], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def make_session_cookie(app: Flask, **values: object) -> str:
    """The cookie of a session that holds these values."""
    interface = app.session_interface
    assert isinstance(interface, SecureCookieSessionInterface)
    serializer = interface.get_signing_serializer(app)
    assert serializer is not None
    return f"{app.config['SESSION_COOKIE_NAME']}={serializer.dumps(values)}"


@contextmanager
def running_portal(config: Config) -> Iterator[Page]:
    """The real web process, and the home of the account with most history, as its owner sees it."""
    with closing(db.connect(config.database_file)) as conn:
        token = login_sessions.start_login_session(
            conn, users.get_user_by_email(conn, demo.OWNER), "127.0.0.1", "bench"
        )
    keys = Keys.load(config.data)
    page = Page(
        "account home",
        f"http://127.0.0.1:{config.web.port}/accounts/{demo.SENDING_ACCOUNT}",
        # As a browser has it from its second page on; wrk keeps no cookie that it is given.
        make_session_cookie(create_app(config, keys), _user_id=token, _fresh=True, csrf_token=secrets.token_hex(20)),
    )
    with running_server(ROOT / "app.py", "web", "--data", config.data):
        wait_until(page.is_ready)
        yield page


@contextmanager
def running_bare_page(config: Config, size: int) -> Iterator[Page]:
    """The page to compare with, of `size` bytes."""
    key, port = secrets.token_hex(), find_free_port()
    app = Flask("bare")
    app.secret_key = key
    page = Page("bare page", f"http://127.0.0.1:{port}/", make_session_cookie(app, user=1))
    with running_server(ROOT / "bench" / "bare.py", config.database_file, port, config.web.threads, size, key):
        wait_until(page.is_ready)
        yield page


def main() -> int:
    if not shutil.which("wrk"):
        print("wrk is missing: sudo apt-get install wrk", file=sys.stderr)
        return 1
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    with tempfile.TemporaryDirectory(prefix="smpp-web-") as folder:
        data = Path(folder) / "data"
        demo_config = settings.load_config(data=data, env={})
        demo.create_demo(demo_config)
        config = settings.load_config(data=data, env={"PORTAL_WEB_PORT": str(find_free_port())})
        (data / settings.FILE_NAME).write_text(f"[web]\nport = {config.web.port}\n")
        with running_portal(config) as home_page, running_bare_page(config, len(home_page.fetch_html())) as bare_page:
            pages = (home_page, bare_page)
            sizes = {each: len(each.fetch_html()) for each in pages}
            for each in pages:
                run_wrk(each, 1)
            rates: dict[Page, list[Rate]] = {each: [] for each in pages}
            for _ in range(RUNS):
                for each in pages:
                    rates[each].append(run_wrk(each, seconds))
    print(f"{CONNECTIONS} connections, {config.web.threads} threads, median of {RUNS} runs of {seconds} s in turn")
    print(f"{'':<14}{'bytes':>8}{'requests/s':>12}{'p99, ms':>10}")
    requests = {}
    for page in pages:
        requests[page] = median(rate.requests for rate in rates[page])
        p99 = median(rate.p99 for rate in rates[page])
        print(f"{page.name:<14}{sizes[page]:>8}{requests[page]:>12.0f}{p99:>10.1f}")
    ratio = requests[home_page] / requests[bare_page]
    print(f"ratio {ratio:.2f} (wanted: at least {MIN_RATIO})")
    return 0 if ratio >= MIN_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
