"""Mails reach a real SMTP server: with STARTTLS, with TLS from the start, with a login, and when it comes late."""

import os
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from portal.core import config as settings
from portal.core import db
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection, write_transaction
from portal.services.common import mail
from portal.smsc.admission.tls import ensure_certificate
from tests.support import find_free_port

USER, PASSWORD = b"portal", b"p@ss:word"


class Inbox:
    """What the server has taken."""

    def __init__(self) -> None:
        self.mails: list[tuple[Envelope, EmailMessage, Session]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append((envelope, message_from_bytes(envelope.content, policy=policy.default), session))
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("full@"):
            return "452 mailbox full"
        envelope.rcpt_tos.append(address)
        return "250 OK"


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A certificate for 127.0.0.1, which this process's TLS trusts as it trusts the system's."""
    file, key = ensure_certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return context


@pytest.fixture
def smtp(free_port: Callable[[], int]) -> Iterator[Callable[..., Controller]]:
    """Starts SMTP servers; all are stopped at the end."""
    started: list[Controller] = []

    def start(port: int | None = None, hostname: str = "127.0.0.1", **options: Any) -> Controller:
        # With a login the server wants one, as mail providers do.
        controller = Controller(Inbox(), hostname=hostname, port=port or free_port(), **options)
        controller.start()
        started.append(controller)
        return controller

    yield start
    for each in started:
        each.stop()


def login(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (USER, PASSWORD))


@pytest.fixture
def mailer(data: Path, keys: Keys) -> Callable[..., Callable[[Connection], int]]:
    """Makes a function that sends what is due to a server, and says how many mails that were."""

    def made(url: str, tls: str = "required") -> Callable[[Connection], int]:
        config = settings.load_config(data=data, env={"PORTAL_MAIL_URL": url, "PORTAL_MAIL_TLS": tls})
        return lambda conn: sum(mail.send_due_mails(conn, config, keys))

    return made


@pytest.fixture
def queue(conn: Connection, keys: Keys) -> Callable[..., None]:
    def queued(recipient: str = "marta@acme.example", language: str = "en") -> None:
        context = {"account": "smpp-acme-1", "password": "s3cr3tpw", "grace": 0}
        mail.queue_mail(conn, keys, recipient, "password", language, **context)

    return queued


def row(conn: Connection) -> sqlite3.Row:
    found: sqlite3.Row = conn.execute("SELECT * FROM mails").fetchone()
    return found


def make_due(conn: Connection) -> None:
    conn.execute("UPDATE mails SET next_attempt_at = 0 WHERE next_attempt_at IS NOT NULL")


def test_a_mail_arrives_in_both_forms(conn, queue, smtp, mailer):
    server = smtp()
    queue()
    assert mailer(f"smtp://127.0.0.1:{server.port}")(conn) == 1
    ((envelope, message, _),) = server.handler.mails
    assert envelope.rcpt_tos == ["marta@acme.example"]
    assert message["To"] == "marta@acme.example"
    assert message["Auto-Submitted"] == "auto-generated"
    assert "s3cr3tpw" in message.get_body(("plain",)).get_content()
    assert "s3cr3tpw" in message.get_body(("html",)).get_content()


def test_a_mail_is_in_the_readers_language(conn, queue, smtp, mailer):
    server = smtp()
    for language in ("en", "it"):
        queue(language=language)
    mailer(f"smtp://127.0.0.1:{server.port}")(conn)
    english, italian = (message for _, message, _ in server.handler.mails)
    assert (english["Content-Language"], italian["Content-Language"]) == ("en", "it")
    assert english["Subject"] != italian["Subject"]


def test_starttls_is_used_where_it_is_offered(conn, queue, smtp, mailer, certificate):
    server = smtp(tls_context=certificate, require_starttls=True)
    queue()
    assert mailer(f"smtp://127.0.0.1:{server.port}")(conn) == 1
    assert server.handler.mails[0][2].ssl


def test_the_login_is_sent_once_the_line_is_secured(conn, queue, smtp, mailer, certificate):
    server = smtp(tls_context=certificate, require_starttls=True, authenticator=login, auth_required=True)
    queue()
    assert mailer(f"smtp://portal:p%40ss%3Aword@127.0.0.1:{server.port}")(conn) == 1
    assert server.handler.mails[0][2].authenticated


def test_a_login_is_never_sent_in_the_clear(conn, queue, smtp, mailer):
    server = smtp(authenticator=login, auth_require_tls=False)
    queue()
    assert mailer(f"smtp://portal:p%40ss%3Aword@127.0.0.1:{server.port}")(conn) == 0
    assert "STARTTLS" in row(conn)["error"]
    assert server.handler.mails == []


@pytest.fixture
def own_address() -> str:
    """An address of this machine that isn't loopback. No datagram is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


def test_no_mail_goes_in_clear_text_beyond_this_machine(conn, queue, smtp, mailer, own_address):
    server = smtp(hostname=own_address)
    queue()
    url = f"smtp://{own_address}:{server.port}"
    assert mailer(url)(conn) == 0
    assert server.handler.mails == []
    assert row(conn)["error"].startswith("UnsecuredMailServer: the server offers no STARTTLS")
    assert mail.count_unsecured_mails(conn) == 1
    make_due(conn)
    assert mailer(url, tls="opportunistic")(conn) == 1
    assert len(server.handler.mails) == 1
    assert mail.count_unsecured_mails(conn) == 0


def test_a_login_is_not_sent_in_clear_text_by_any_setting(conn, queue, smtp, mailer, own_address):
    server = smtp(hostname=own_address, authenticator=login, auth_require_tls=False)
    queue()
    assert mailer(f"smtp://portal:p%40ss%3Aword@{own_address}:{server.port}", tls="opportunistic")(conn) == 0
    assert server.handler.mails == []


def test_a_certificate_that_nobody_vouches_for_is_refused(conn, queue, smtp, mailer, certificate, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    server = smtp(tls_context=certificate)
    queue()
    assert mailer(f"smtp://127.0.0.1:{server.port}")(conn) == 0
    assert "CERTIFICATE_VERIFY_FAILED" in row(conn)["error"]


def test_tls_from_the_start(conn, queue, smtp, mailer, certificate):
    server = smtp(ssl_context=certificate)
    queue()
    assert mailer(f"smtps://127.0.0.1:{server.port}")(conn) == 1


def test_a_mail_waits_for_a_server_that_is_down(conn, queue, smtp, mailer):
    port = find_free_port()
    sender = mailer(f"smtp://127.0.0.1:{port}")
    queue()
    before = now_ms()
    assert sender(conn) == 0
    waiting = row(conn)
    assert (waiting["attempts"], waiting["sent_at"]) == (1, None)
    assert waiting["next_attempt_at"] >= before + 5_000
    assert "Connection" in waiting["error"]
    assert sender(conn) == 0, "not before its time"
    server = smtp(port)
    make_due(conn)
    assert sender(conn) == 1
    assert len(server.handler.mails) == 1


def test_the_log_says_when_mails_begin_to_fail_and_when_they_are_sent_again(conn, queue, smtp, mailer, caplog):
    caplog.set_level("INFO")
    queue()
    assert mailer(f"smtp://127.0.0.1:{smtp().port}")(conn) == 1, "whatever has failed before"
    caplog.clear()
    port = find_free_port()
    sender = mailer(f"smtp://127.0.0.1:{port}")
    for _ in range(3):
        queue()
        make_due(conn)
        sender(conn)
    lines = [each for each in caplog.messages if each.startswith("mails ")]
    assert len(lines) == 1
    assert lines[0].startswith("mails can't be sent, and will be tried again: ")
    smtp(port)
    for _ in range(2):
        make_due(conn)
        assert sender(conn)
        queue()
    assert [each for each in caplog.messages if each.startswith("mails ")][1:] == ["mails are sent again"]


@pytest.mark.slow
def test_the_waits_grow(conn, queue, mailer):
    sender = mailer(f"smtp://127.0.0.1:{find_free_port()}")
    queue()
    waits = []
    for _ in range(8):
        make_due(conn)
        sender(conn)
        waits.append(round((row(conn)["next_attempt_at"] - now_ms()) / 1000))
    assert waits == [5, 15, 60, 300, 900, 1800, 1800, 1800]


def test_a_mail_that_was_put_off_by_a_clock_an_hour_ahead_goes_now(conn, queue, smtp, mailer):
    queue()
    conn.execute("UPDATE mails SET next_attempt_at = next_attempt_at + 3600000")
    assert mailer(f"smtp://127.0.0.1:{smtp().port}")(conn) == 1


def test_after_a_week_of_attempts_a_mail_is_given_up_and_its_content_dropped(conn, queue, mailer):
    sender = mailer(f"smtp://127.0.0.1:{find_free_port()}")
    queue()
    waits = [5, 15, 60, 300, 900, *[1800] * 335]
    assert 0 <= 7 * 86_400 - sum(waits) < 1800
    conn.execute("UPDATE mails SET attempts = ?", (len(waits) - 2,))
    sender(conn)
    assert row(conn)["content"]
    make_due(conn)
    sender(conn)
    assert (row(conn)["next_attempt_at"], row(conn)["content"]) == (None, None)


def test_a_clock_that_is_weeks_ahead_for_a_moment_gives_no_mail_up(conn, queue, mailer, smtp):
    queue()
    conn.execute("UPDATE mails SET created_at = created_at - ?", (100 * 86_400_000,))
    mailer(f"smtp://127.0.0.1:{find_free_port()}")(conn)
    mail.purge_mails(conn, now_ms())
    make_due(conn)
    assert mailer(f"smtp://127.0.0.1:{smtp().port}")(conn) == 1


def test_purge_forgets_what_was_sent_or_given_up_long_ago(conn, queue, mailer):
    for recipient in ("old@acme.example", "waiting@acme.example", "new@acme.example"):
        queue(recipient=recipient)
    conn.execute("UPDATE mails SET next_attempt_at = NULL, content = NULL WHERE recipient <> 'waiting@acme.example'")
    conn.execute(
        "UPDATE mails SET created_at = created_at - ? WHERE recipient <> 'new@acme.example'", (90 * 86_400_000,)
    )
    mail.purge_mails(conn, now_ms() + 1)
    left = [each["recipient"] for each in conn.execute("SELECT recipient FROM mails ORDER BY id")]
    assert left == ["waiting@acme.example", "new@acme.example"]


def test_one_mail_that_is_refused_does_not_hold_up_the_next(conn, queue, smtp, mailer):
    server = smtp()
    queue("full@acme.example")
    queue("marta@acme.example")
    assert mailer(f"smtp://127.0.0.1:{server.port}")(conn) == 1
    assert "mailbox full" in row(conn)["error"]


def test_a_mail_that_can_not_be_read_does_not_hold_up_the_next(conn, queue, smtp, mailer):
    # As after a restore beside another installation's key.
    server = smtp()
    queue()
    conn.execute("UPDATE mails SET content = ?", (bytes(64),))
    queue(recipient="bruno@acme.example")
    assert mailer(f"smtp://127.0.0.1:{server.port}")(conn) == 1
    assert [envelope.rcpt_tos for envelope, *_ in server.handler.mails] == [["bruno@acme.example"]]
    assert "InvalidTag" in row(conn)["error"]
    assert row(conn)["next_attempt_at"] > now_ms()


def test_the_content_goes_with_the_sending(conn, queue, smtp, mailer):
    server = smtp()
    queue()
    assert row(conn)["content"]
    mailer(f"smtp://127.0.0.1:{server.port}")(conn)
    assert row(conn)["content"] is None


def test_a_mail_exists_only_if_what_it_tells_has_happened(conn, queue):
    def change_that_fails() -> None:
        with write_transaction(conn):
            queue()
            raise RuntimeError("after all, no")

    with pytest.raises(RuntimeError):
        change_that_fails()
    assert row(conn) is None


@pytest.mark.slow
def test_two_mailers_send_each_mail_once(queue, smtp, mailer, connect):
    server = smtp()
    for _ in range(12):
        queue()
    senders = [mailer(f"smtp://127.0.0.1:{server.port}") for _ in range(2)]
    threads = [threading.Thread(target=each, args=[connect()]) for each in senders]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    ids = [message["Message-ID"] for _, message, _ in server.handler.mails]
    assert len(ids) == len(set(ids)) == 12


def test_a_mail_that_was_claimed_by_a_process_that_died_is_sent_by_another(conn, queue, smtp, mailer):
    server = smtp()
    queue()
    assert mail.claim_mail(conn)
    sender = mailer(f"smtp://127.0.0.1:{server.port}")
    assert sender(conn) == 0
    make_due(conn)
    assert sender(conn) == 1


def test_a_server_that_says_nothing_blocks_nobody_else(data, conn, queue, mailer, connect):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sender = mailer(f"smtp://127.0.0.1:{silent.getsockname()[1]}")
        queue()
        thread = threading.Thread(target=sender, args=[connect()])
        thread.start()
        talking, _ = silent.accept()
        # The mailer is waiting for a greeting now, and holds no lock meanwhile.
        writer = db.connect(data / db.FILE_NAME, busy_timeout_ms=0)
        with write_transaction(writer):
            writer.execute("UPDATE customers SET name = name")
        writer.close()
        talking.close()
        thread.join()
    assert row(conn)["attempts"] == 1


def test_without_a_server_mails_are_files(data, conn, queue, mailer):
    queue()
    assert mailer("")(conn) == 1
    (file,) = (data / "outbox").iterdir()
    assert file.suffix == ".eml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert message_from_bytes(file.read_bytes())["To"] == "marta@acme.example"


@pytest.fixture
def tend(data: Path, conn: Connection) -> Callable[..., list[str]]:
    """Tends `outbox/`, and says which files are left."""

    def tended(url: str = "") -> list[str]:
        mail.tend_outbox(conn, settings.load_config(data=data, env={"PORTAL_MAIL_URL": url}))
        return sorted(each.name for each in (data / "outbox").iterdir())

    return tended


def test_a_mail_leaves_the_outbox_once_a_server_has_taken_it(data, conn, queue, mailer, tend, smtp):
    queue()
    mailer("")(conn)
    (file,) = tend()
    port = find_free_port()
    url = f"smtp://127.0.0.1:{port}"
    assert tend(url) == [file]
    assert mailer(url)(conn) == 0
    assert row(conn)["attempts"] == 2
    assert tend(url) == [file], "nobody has taken it"
    server = smtp(port)
    make_due(conn)
    assert mailer(url)(conn) == 1
    assert "s3cr3tpw" in server.handler.mails[0][1].get_body(("plain",)).get_content()
    assert row(conn)["content"] is None
    assert tend(url) == []
    assert mailer(url)(conn) == 0


def test_a_mail_whose_file_was_deleted_counts_as_sent_by_hand(data, conn, queue, mailer, tend, smtp):
    queue()
    mailer("")(conn)
    (file,) = (data / "outbox").iterdir()
    file.unlink()
    url = f"smtp://127.0.0.1:{smtp().port}"
    tend()
    assert row(conn)["content"] is None
    tend(url)
    assert mailer(url)(conn) == 0


def test_data_that_was_moved_without_the_outbox_loses_no_mail(data, conn, queue, mailer, tend, smtp):
    queue()
    mailer("")(conn)
    (file,) = (data / "outbox").iterdir()
    file.unlink()
    url = f"smtp://127.0.0.1:{smtp().port}"
    tend(url)
    assert mailer(url)(conn) == 1


def test_a_mail_that_a_server_is_to_have_is_sent_though_its_file_was_deleted(data, conn, queue, mailer, tend, smtp):
    queue()
    mailer("")(conn)
    (file,) = (data / "outbox").iterdir()
    url = f"smtp://127.0.0.1:{smtp().port}"
    tend(url)
    file.unlink()
    assert tend(url) == []
    assert mailer(url)(conn) == 1


@pytest.fixture
def wait_an_hour(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has an hour pass by the clock that nobody sets."""
    passed = 0

    def wait() -> None:
        nonlocal passed
        passed += 3600

    monkeypatch.setattr(mail, "monotonic", lambda: time.monotonic() + passed)
    return wait


def test_nothing_stays_in_the_outbox_for_more_than_a_week(data, conn, queue, mailer, tend, wait_an_hour):
    queue()
    mailer("")(conn)
    (file,) = (data / "outbox").iterdir()
    # As versions before have named them; their rows say that they were sent.
    older = file.with_name(f"1700000000000-{file.name}")
    older.write_bytes(file.read_bytes())
    other = file.with_name("notes.txt")
    other.touch()
    now = now_ms() / 1000
    for each in (file, older, other):
        os.utime(each, (now, now - 7 * 86_400 + 60))
    assert tend() == sorted([file.name, older.name, other.name])
    for each in (file, older, other):
        os.utime(each, (now, now - 7 * 86_400 - 60))
    tend()
    wait_an_hour()
    assert tend() == [other.name]
    tend()
    assert row(conn)["content"] is None


def test_a_clock_that_is_weeks_ahead_for_a_moment_takes_nothing_from_the_outbox(
    data, conn, queue, mailer, tend, wait_an_hour, monkeypatch
):
    queue()
    mailer("")(conn)
    (file,) = tend()
    for ahead in (8 * 86_400_000, 100 * 86_400_000):
        monkeypatch.setattr(mail, "now_ms", lambda ahead=ahead: now_ms() + ahead)
        assert tend() == [file]
        mail.purge_mails(conn, now_ms() + ahead)
        monkeypatch.setattr(mail, "now_ms", now_ms)
        assert tend() == [file]
        wait_an_hour()
    assert row(conn)["content"]


def test_a_link_that_leads_nowhere_keeps_no_other_file_from_its_end(data, conn, queue, mailer, tend, wait_an_hour):
    queue()
    mailer("")(conn)
    (file,) = (data / "outbox").iterdir()
    week_old = now_ms() / 1000 - 7 * 86_400 - 60
    os.utime(file, (week_old, week_old))
    link = file.with_name("1.1.eml")
    link.symlink_to("nowhere")
    tend()
    wait_an_hour()
    assert tend() == [link.name]


def test_what_an_older_version_has_written_stays_its_week(data, conn, queue, mailer, tend, smtp):
    queue()
    mailer("")(conn)
    (file,) = (data / "outbox").iterdir()
    older = file.rename(file.with_name(f"1700000000000-{file.name}"))
    conn.execute("UPDATE mails SET sent_at = 1, content = NULL")
    assert tend() == tend("smtp://127.0.0.1:9") == [older.name]
