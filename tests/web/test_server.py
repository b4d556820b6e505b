"""The web server itself, the real one: what strangers can do to it, and what it does unasked."""

import http.client
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from flask.sessions import SecureCookieSessionInterface

from portal.core import clock, db
from portal.core.config import Config, load_config
from portal.core.crypto import Keys
from portal.services.accounts import accounts, refused_binds
from portal.services.common import credit_amounts, ids
from portal.services.common.audit import SHELL
from portal.services.credits import alerts, credits
from portal.services.messages import refusal_mails
from portal.services.people import authentication, users
from portal.supervisor import increase_open_file_limit
from portal.web.app import create_app
from portal.web.core.headers import list_headers
from tests.mailbox import Mailbox
from tests.serving import run_component, start_server
from tests.support import DEADLINE_S, Cast, RunningServer, copy_data_folder, wait_until
from tests.web.acting import get_field_value

pytestmark = pytest.mark.slow

RequestDownload = Callable[[int], urllib.request.Request]


@pytest.fixture(scope="module")
def web(template: tuple[Path, Cast], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The portal alone, one for all tests that change nothing in it."""
    data = copy_data_folder(template[0], tmp_path_factory.mktemp("web") / "data")
    with run_component(load_config(data=data, env={}), "web") as server:
        yield server


@pytest.fixture
def open_sockets() -> Iterator[ExitStack]:
    """Closed at the test's end; there may be many."""
    increase_open_file_limit()
    with ExitStack() as opened:
        yield opened


def connect(server: RunningServer, opened: ExitStack, octets: bytes) -> socket.socket:
    made = opened.enter_context(socket.create_connection(("127.0.0.1", urlsplit(server.url).port), DEADLINE_S))
    made.sendall(octets)
    return made


def test_requests_that_never_end_keep_nobody_out(web: RunningServer, open_sockets: ExitStack) -> None:
    for _ in range(900):
        connect(web, open_sockets, b"GET /login HTTP/1.1\r\nHost: portal\r\n")
    with urllib.request.urlopen(f"{web.url}/login", timeout=DEADLINE_S) as answer:
        assert answer.status == 200


def test_a_body_that_is_too_large_is_not_taken(web: RunningServer, open_sockets: ExitStack) -> None:
    head = b"POST /login HTTP/1.1\r\nHost: portal\r\nContent-Length: 900000000\r\n\r\n"
    assert connect(web, open_sockets, head).recv(1000).startswith(b"HTTP/1.1 413")


def read_status(client: socket.socket) -> int:
    return int(client.recv(1000).split()[1])


@pytest.mark.parametrize(
    "headers",
    [
        b"Host: portal\r\nHost: elsewhere\r\n\r\n",
        b"Host: portal\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Host: portal\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    ],
)
def test_what_a_proxy_may_have_read_otherwise_is_refused(
    web: RunningServer, open_sockets: ExitStack, headers: bytes
) -> None:
    assert read_status(connect(web, open_sockets, b"POST /login HTTP/1.1\r\n" + headers)) == 400


@pytest.mark.parametrize("public_url", ["http://portal.example", "https://portal.example"])
def test_what_is_refused_before_it_comes_to_a_page_has_a_page_s_headers(
    config: Config, open_sockets: ExitStack, public_url: str
) -> None:
    headers = list_headers(replace(config, web=replace(config.web, public_url=public_url)))
    with run_component(config, "web", PORTAL_WEB_PUBLIC_URL=public_url) as server:
        for fields, status in (
            (b"", 200),
            (b"Content-Length: 900000000\r\n", 413),
            (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 400),
        ):
            request = b"GET /login HTTP/1.1\r\nHost: portal\r\n" + fields + b"\r\n"
            with http.client.HTTPResponse(connect(server, open_sockets, request)) as answer:
                answer.begin()
            assert answer.status == status
            found = {name: answer.headers.get_all(name) for name in headers}
            assert found == {name: [value] for name, value in headers.items()}
            assert ("Strict-Transport-Security" in found) == public_url.startswith("https:")


def test_a_form_in_chunks_is_read(web: RunningServer, open_sockets: ExitStack) -> None:
    connection = open_sockets.enter_context(closing(http.client.HTTPConnection(urlsplit(web.url).netloc)))
    connection.request("GET", "/login")
    page = connection.getresponse()
    token = get_field_value(page.read().decode(), "csrf_token")
    form = urlencode({"csrf_token": token, "email": "nobody@acme.example", "password": "wrong"}).encode()
    headers = {
        "Cookie": page.headers["Set-Cookie"].partition(";")[0],
        "Content-Type": "application/x-www-form-urlencoded",
        "Transfer-Encoding": "chunked",
    }
    connection.request("POST", "/login", iter([form[:20], form[20:]]), headers, encode_chunked=True)
    assert connection.getresponse().status == 401


def test_an_address_in_the_absolute_form_is_read(web: RunningServer, open_sockets: ExitStack) -> None:
    request = b"GET http://portal/login?next=/ HTTP/1.1\r\nHost: portal\r\n\r\n"
    assert read_status(connect(web, open_sockets, request)) == 200


def test_an_address_has_four_large_bodies_on_their_way(web: RunningServer, open_sockets: ExitStack) -> None:
    head = b"POST /login HTTP/1.1\r\nHost: portal\r\nContent-Length: 100000\r\n\r\n"
    underway = [connect(web, open_sockets, head) for _ in range(4)]
    wait_until(lambda: read_status(connect(web, open_sockets, head + bytes(100_000))) == 503)
    for each in underway:
        each.sendall(bytes(100_000))
        assert read_status(each) != 503
    assert read_status(connect(web, open_sockets, head + bytes(100_000))) != 503


def test_addresses_of_one_ipv6_network_have_four_large_bodies_together(
    serve_alone: Callable[..., RunningServer], open_sockets: ExitStack
) -> None:
    server = serve_alone("web", PORTAL_WEB_TRUSTED_PROXIES="127.0.0.1")

    def begin(address: str, octets: bytes = b"") -> socket.socket:
        head = f"POST /login HTTP/1.1\r\nHost: portal\r\nX-Forwarded-For: {address}\r\nContent-Length: 100000\r\n\r\n"
        return connect(server, open_sockets, head.encode() + octets)

    for number in range(4):
        begin(f"2001:db8::{number}")
    wait_until(lambda: read_status(begin("2001:db8::4", bytes(100_000))) == 503)
    assert read_status(begin("2001:db8:0:1::4", bytes(100_000))) != 503


def is_there(server: RunningServer) -> bool:
    try:
        socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), 1).close()
    except OSError:
        return False
    return True


def memory_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


@pytest.fixture
def request_download(config: Config, cast: Cast, conn: db.Connection, keys: Keys) -> RequestDownload:
    """Makes an owner's request for so many lines of history, of a thousand octets each."""

    def build_request(lines: int) -> urllib.request.Request:
        fill_history(conn, cast, lines)
        return urllib.request.Request(
            f"{config.public_url}/accounts/smpp-acme-1/history.csv",
            headers={"Cookie": make_cookie(config, cast, conn, keys)},
        )

    return build_request


def fill_history(conn: db.Connection, cast: Cast, lines: int) -> None:
    with db.write_transaction(conn):
        conn.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO messages"
            " (id, account_id, source, source_ton, source_npi, destination, country, text, data_coding,"
            "  registered_delivery, parts, price, state, ptt)"
            " SELECT ? - i, ?, 'ACME', 5, 0, '393401234567', 'IT', hex(zeroblob(500)), 0, 0, 7, 0,"
            "  2, 0 FROM n",
            # Not so long ago that the server would remove them meanwhile.
            (lines, ids.min_id_at_time(clock.now_ms()), cast.smpp_acme_1.id),
        )


def make_cookie(config: Config, cast: Cast, conn: db.Connection, keys: Keys) -> str:
    app = create_app(config, keys)
    assert isinstance(app.session_interface, SecureCookieSessionInterface)
    serializer = app.session_interface.get_signing_serializer(app)
    assert serializer is not None
    token = authentication.start_login_session(
        conn, users.get_user_by_email(conn, cast.alice.email), "127.0.0.1", "a test"
    )
    return f"{app.config['SESSION_COOKIE_NAME']}={serializer.dumps({'_user_id': token, '_fresh': True})}"


def test_a_download_is_not_kept_in_memory(config: Config, request_download: RequestDownload) -> None:
    """Not even where its reader is quick: 40 MB of history pass through."""
    download = request_download(40_000)
    with start_server(config, "web") as server:
        wait_until(lambda: is_there(server))
        with urllib.request.urlopen(download, timeout=DEADLINE_S) as answer:
            began, length, most = memory_mb(server.process.pid), 0, 0.0
            while piece := answer.read(1 << 20):
                length += len(piece)
                most = max(most, memory_mb(server.process.pid))
    assert length > 40_000_000
    assert most - began < 20


def test_slow_clients_hold_no_thread(
    config: Config, request_download: RequestDownload, open_sockets: ExitStack
) -> None:
    """The only thread there is makes pages while a body and a download's reader are waited for."""
    download = request_download(15_000)  # more than fits into the system's buffers
    with start_server(config, "web", PORTAL_WEB_THREADS="1") as server:
        wait_until(lambda: is_there(server))
        connect(server, open_sockets, b"POST /login HTTP/1.1\r\nHost: portal\r\nContent-Length: 100\r\n\r\n")
        with urllib.request.urlopen(download, timeout=DEADLINE_S) as answer:
            answer.readline()
            with urllib.request.urlopen(f"{server.url}/login", timeout=DEADLINE_S) as page:
                assert page.status == 200
            assert sum(1 for _ in answer) == 15_000


def test_both_families_of_addresses_are_listened_on(config: Config) -> None:
    with start_server(config, "web", PORTAL_WEB_HOST="::") as server:
        wait_until(lambda: is_there(server))
        port = urlsplit(server.url).port
        for host in ("127.0.0.1", "[::1]"):
            with urllib.request.urlopen(f"http://{host}:{port}/healthz", timeout=DEADLINE_S) as answer:
                assert answer.read() == b"ok\n"


def test_what_is_under_way_when_it_stops_is_answered_whole(
    config: Config, request_download: RequestDownload, open_sockets: ExitStack
) -> None:
    download = request_download(8_000)  # more than fits into the system's buffers
    with start_server(config, "web") as server:
        wait_until(lambda: is_there(server))
        idle = connect(server, open_sockets, b"GET /login HTTP/1.1\r\nHost: portal\r\n\r\n")
        first_answer = http.client.HTTPResponse(idle)
        first_answer.begin()
        assert first_answer.read()
        assert not first_answer.will_close
        with urllib.request.urlopen(download, timeout=DEADLINE_S) as answer:
            answer.readline()
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not is_there(server))
            assert idle.recv(1) == b""
            assert sum(1 for _ in answer) == 8_000
        assert server.process.wait(DEADLINE_S) == 0


def test_a_request_that_never_ends_holds_the_stop_up_for_a_second(config: Config, open_sockets: ExitStack) -> None:
    with start_server(config, "web") as server:
        wait_until(lambda: is_there(server))
        connect(server, open_sockets, b"GET /login HTTP/1.1\r\n")
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE_S) == 0
        assert time.monotonic() - begun < 3


def test_it_sends_the_mails_about_refused_binds(config: Config, cast: Cast, conn: db.Connection) -> None:
    alice = users.get_user_by_email(conn, cast.alice.email)
    refusal_mails.set_refusal_mails_enabled(conn, alice, True)
    an_hour_ago = clock.now_ms() - 3_600_000
    refused = refused_binds.RefusedBind(cast.smpp_acme_1.id, "203.0.113.7", refused_binds.NOT_AUTHORISED, an_hour_ago)
    refused_binds.record_refused_binds(conn, [refused])
    with Mailbox().listening() as mailbox, start_server(config, "web", PORTAL_MAIL_URL=mailbox.url):
        mail = mailbox.wait_for_mail()
    assert (mail["To"], mail["Subject"]) == (alice.email, "Clients of smpp-acme-1 were refused")


def test_it_sends_the_mails_about_credits_while_it_runs(config: Config, cast: Cast, conn: db.Connection) -> None:
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    alerts.set_alert_rule(conn, SHELL, account, 950 * credit_amounts.THOUSANDTHS)
    target = accounts.get_account(conn, cast.smpp_acme_2.name)
    credits.transfer_credits(conn, SHELL, account, target, 100 * credit_amounts.THOUSANDTHS)
    with Mailbox().listening() as mailbox, start_server(config, "web", PORTAL_MAIL_URL=mailbox.url):
        first = mailbox.wait_for_mail()
        # It has noticed what there was when it started; now what happens meanwhile.
        credits.grant_credits(conn, SHELL, account, 100 * credit_amounts.THOUSANDTHS)
        credits.transfer_credits(conn, SHELL, account, target, 90 * credit_amounts.THOUSANDTHS)
        second = mailbox.wait_for_mail()
    assert (first["To"], first["Subject"]) == ("marta@acme.example", "smpp-acme-1 is running out of credits")
    assert "smpp-acme-1 holds 900 credits." in first.as_string()
    assert "smpp-acme-1 holds 910 credits." in second.as_string()


def test_the_copy_of_a_check_that_was_killed_goes_at_the_start(config: Config) -> None:
    left = config.data / ".portal.db.checking"
    left.write_text("killed")
    with start_server(config, "web"):
        wait_until(lambda: not left.exists())


def test_it_lets_credits_run_out(config: Config, cast: Cast, conn: db.Connection) -> None:
    account, now = accounts.get_account(conn, cast.smpp_acme_1.name), clock.now_ms()
    credits.grant_credits(conn, SHELL, account, 50_000, expires_at=now - 1, now=now - clock.DAY_MS)
    assert credits.get_balance(conn, account.id) == 1_050_000
    with start_server(config, "web"):
        wait_until(lambda: credits.get_balance(conn, account.id) == 1_000_000)
