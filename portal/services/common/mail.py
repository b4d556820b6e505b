"""Mails: queued in the transaction of what they report, sent afterwards, retried until they arrive."""

import json
import logging
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from functools import cache, partial
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from portal.core import i18n, paths
from portal.core.clock import DAY_MS, now_ms
from portal.core.config import Config, MailSettings
from portal.core.crypto import Keys
from portal.core.db import insert_row, update_row, write_transaction

if TYPE_CHECKING:
    from jinja2 import Environment

_log = logging.getLogger(__name__)

_TIMEOUT_S = 20
# How long after each failed attempt the next one comes; the last one repeats.
_BACKOFF_MS = [each * 1000 for each in (5, 15, 60, 300, 900, 1800)]
# A mail is given up after as many as fit into a week: by the clock alone, one that is a week ahead would lose them all.
_MAX_ATTEMPTS = len(_BACKOFF_MS) + (7 * DAY_MS - sum(_BACKOFF_MS)) // _BACKOFF_MS[-1]
# A file in `outbox/` is deleted where it has been so old for so long, by a clock that nobody sets.
_OUTBOX_MS, _SURELY_OLD_S = 7 * DAY_MS, 3600
_old_since: dict[Path, float] = {}
# Set while mails fail: the log says when that begins and ends, and nothing of the attempts between.
_is_failing = threading.Event()
# For so long the database shows that a mail was sent, or why it was not.
_RETENTION_MS = 90 * DAY_MS
# While a mail is being sent nobody else takes it; if this process dies, another may after this time.
_CLAIM_TIMEOUT_MS = 120_000
# `_write_to_outbox` names a file after its mail's `created_at` and `id`; versions before it put another time in front.
_OUTBOX_NAME = re.compile(r"\.?(?P<older>\d+-)?(?P<created_at>\d{1,18})\.(?P<id>\d{1,18})\.eml")
# Mails of which there are files, and that no server is to have yet.
_IN_OUTBOX = "next_attempt_at IS NULL AND content IS NOT NULL"


class UnsecuredMailServer(OSError):
    """The server offers no STARTTLS, and what would be sent is not sent in clear text."""


def queue_mail(
    conn: sqlite3.Connection, keys: Keys, recipient: str, template: str, language: str | None, **context: object
) -> None:
    """Put a mail into the queue, in the caller's transaction: it exists if and only if what it reports has happened.

    Args:
        template: a folder's name in `templates/mail/`: `subject.txt`, `body.txt`, `body.html`.
        language: of the reader; None: they have chosen none.
        context: what the template shows; sealed until sent, for it may hold a password.
    """
    content = {"template": template, "language": language or i18n.DEFAULT_LANGUAGE, "context": context}
    sealed = keys.encrypt_column(json.dumps(content).encode())
    insert_row(conn, "mails", recipient=recipient, content=sealed, created_at=now_ms(), next_attempt_at=now_ms())


def purge_mails(conn: sqlite3.Connection, now: int) -> None:
    """Delete mails that were sent or given up, three months after they were queued (`now` in milliseconds)."""
    conn.execute(
        "DELETE FROM mails WHERE next_attempt_at IS NULL AND content IS NULL AND created_at < ?", (now - _RETENTION_MS,)
    )


def send_due_mails(conn: sqlite3.Connection, config: Config, keys: Keys) -> Iterator[bool]:
    """Try each mail that is due once: by SMTP, or into files where no server is set. Yields whether that went well.

    Args:
        config: where mails go, and what they say of the installation.
        keys: those that `queue_mail` sealed with.
    """
    while (row := claim_mail(conn)) is not None:
        try:
            content = json.loads(keys.decrypt_column(row["content"]))
            _deliver_mail(config, row["recipient"], content, row["created_at"], row["id"])
        except Exception as error:
            # What is wrong may be no server's: a mail is sealed under a key that was replaced, or its address can be in
            # no header. It is given up in the same way, and must not keep the mails behind it.
            if not isinstance(error, OSError):
                _log.exception("mail %d can't be made or sent", row["id"])
            # One that alone is refused, and has been before, is no news between others that are sent.
            elif row["attempts"] == 1 and not _is_failing.is_set():
                _is_failing.set()
                _log.warning("mails can't be sent, and will be tried again: %s", error)
            _record_failure(conn, row, error)
            yield False
        else:
            # The content goes with the sending: it may hold a password. What is only a file is sent once there is a
            # server (`tend_outbox`).
            sent = {"sent_at": now_ms(), "content": None} if config.mail.url else {}
            update_row(conn, "mails", row["id"], next_attempt_at=None, error="", **sent)
            if _is_failing.is_set():
                _is_failing.clear()
                _log.info("mails are sent again")
            yield True


def claim_mail(conn: sqlite3.Connection) -> sqlite3.Row | None:
    """Take the mail that is due first, so that no other process sends it too; None: none is due."""
    now = now_ms()
    # What is to be tried later than the longest wait was put off by a clock that has been set back since.
    query = "SELECT id FROM mails WHERE next_attempt_at <= ?1 OR next_attempt_at > ?2 ORDER BY next_attempt_at LIMIT 1"
    time_range = (now, now + _BACKOFF_MS[-1])
    if conn.execute(query, time_range).fetchone() is None:
        return None
    with write_transaction(conn):
        row: sqlite3.Row | None = conn.execute(
            f"UPDATE mails SET attempts = attempts + 1, next_attempt_at = ?3 WHERE id = ({query})"
            " RETURNING id, recipient, content, attempts, created_at",
            (*time_range, now + _CLAIM_TIMEOUT_MS),
        ).fetchone()
    return row


def _record_failure(conn: sqlite3.Connection, row: sqlite3.Row, error: Exception) -> None:
    now = now_ms()
    delay = _BACKOFF_MS[min(row["attempts"], len(_BACKOFF_MS)) - 1]
    given_up = row["attempts"] >= _MAX_ATTEMPTS
    conn.execute(
        "UPDATE mails SET next_attempt_at = ?, error = ?, content = iif(?, NULL, content) WHERE id = ?",
        (None if given_up else now + delay, f"{type(error).__name__}: {error}"[:500], given_up, row["id"]),
    )


def send_mail_at_once(config: Config, recipient: str, template: str, language: str | None, **context: object) -> None:
    """Send a mail that tries out whether mails arrive: past the queue, once.

    Args:
        template, language, context: as for `queue_mail`.

    Raises:
        OSError: the server hasn't taken it.
    """
    content = {"template": template, "language": language or i18n.DEFAULT_LANGUAGE, "context": context}
    with i18n.override_language(i18n.current_language()):
        _deliver_mail(config, recipient, content, now_ms(), secrets.randbits(32))


def _deliver_mail(config: Config, recipient: str, content: Mapping[str, Any], created_at: int, mail_id: int) -> None:
    message = _render_mail(config, recipient, content, f"{created_at}.{mail_id}")
    if config.mail.url:
        _send_smtp(config.mail, message)
    else:
        _write_to_outbox(config.data / "outbox", f"{created_at}.{mail_id}.eml", message)


def _render_mail(config: Config, recipient: str, content: Mapping[str, Any], name: str) -> EmailMessage:
    i18n.use_language(content["language"])
    context = content["context"] | {
        "installation": config.name,
        "public_url": config.public_url,
        "timezone": config.timezone,
        "payment_instructions": config.payments.instructions,
        "check_command": config.format_command("check"),
    }
    subject, text, html = (
        _template_environment().get_template(f"{content['template']}/{part}").render(context).strip()
        for part in ("subject.txt", "body.txt", "body.html")
    )
    message = EmailMessage()
    message["Subject"] = " ".join(subject.split())
    message["From"] = config.mail.sender
    message["To"] = recipient
    message["Date"] = formatdate(localtime=False)
    # Made from the mail's row: a mail that is sent twice, because the answer to the first was lost, is the same.
    domain = parseaddr(config.mail.sender)[1].partition("@")[2] or "localhost"
    message["Message-ID"] = f"<{name}@{domain}>"
    # RFC 3834: no holiday answers, please.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text + "\n")
    message.add_alternative(html, subtype="html")
    # After the content: setting that takes all Content-* headers away.
    message["Content-Language"] = content["language"]
    return message


def _send_smtp(settings: MailSettings, message: EmailMessage) -> None:
    # Imported here, as jinja2 is: whoever queues mails, such as a command or the SMPP server, needs none of them.
    import smtplib
    import ssl

    parts = urlsplit(settings.url)
    host, secured = parts.hostname or "localhost", parts.scheme == "smtps"
    context = ssl.create_default_context()
    connect, default_port = (partial(smtplib.SMTP_SSL, context=context), 465) if secured else (smtplib.SMTP, 587)
    with connect(host, parts.port or default_port, timeout=_TIMEOUT_S) as server:
        server.ehlo()
        if not secured and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
            secured = True
        # Whoever is on the way can take STARTTLS out of the answer, and mails hold passwords and one-time links.
        assert server.sock is not None
        may_be_clear = settings.tls == "opportunistic" or ip_address(server.sock.getpeername()[0]).is_loopback
        if not secured and (parts.username or not may_be_clear):
            what = "password" if parts.username else "mail"
            raise UnsecuredMailServer(f"the server offers no STARTTLS: not sending the {what} in clear text")
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
        server.send_message(message)


def _write_to_outbox(outbox: Path, name: str, message: EmailMessage) -> None:
    outbox.mkdir(mode=0o700, exist_ok=True)
    # Sorted by name is sorted by time. Written beside and renamed, so that nobody reads half a mail.
    temporary_file = outbox / f".{name}"
    temporary_file.touch(mode=0o600)
    temporary_file.write_bytes(bytes(message))
    temporary_file.rename(outbox / name)


def tend_outbox(conn: sqlite3.Connection, config: Config) -> None:
    """Delete the files in `outbox/` whose mails were sent since, or that are a week old.

    Where a mail server is set by now, those that are left are queued for it, also where the data was moved without
    `outbox/`. Until then a mail whose file somebody has removed counts as sent by hand, and its content goes.
    """
    now = now_ms()
    # Looked for before their files: a mail is one of these once its file is there.
    mails = conn.execute(f"SELECT id, created_at FROM mails WHERE {_IN_OUTBOX}").fetchall()
    files = list_outbox(config.data)
    names = {each.name for each in files}
    if config.mail.url:
        conn.execute(f"UPDATE mails SET next_attempt_at = ? WHERE {_IN_OUTBOX}", (now,))
    else:
        conn.executemany(
            f"UPDATE mails SET content = NULL WHERE id = ? AND {_IN_OUTBOX}",
            [(each["id"],) for each in mails if f"{each['created_at']}.{each['id']}.eml" not in names],
        )
    for file in files:
        name = _OUTBOX_NAME.fullmatch(file.name)
        row = None
        # Of what an older version has written the row says that it was sent, and the content is gone.
        if name and not name["older"]:
            query = "SELECT sent_at FROM mails WHERE id = ? AND created_at = ?"
            row = conn.execute(query, (int(name["id"]), int(name["created_at"]))).fetchone()
        # Somebody may remove a file meanwhile, or has put a link there that leads nowhere.
        with suppress(FileNotFoundError):
            if (row and row["sent_at"]) or _is_surely_old(file, now):
                file.unlink()
                _old_since.pop(file, None)


def _is_surely_old(file: Path, now: int) -> bool:
    """Whether a file is a week old, and has been so for an hour: a clock may be wrong for a moment."""
    if file.stat().st_mtime * 1000 >= now - _OUTBOX_MS:
        _old_since.pop(file, None)
        return False
    return monotonic() - _old_since.setdefault(file, monotonic()) >= _SURELY_OLD_S


def list_outbox(data: Path) -> list[Path]:
    """The mails in the data folder's `outbox/`, without what else somebody has put there."""
    return [each for each in (data / "outbox").glob("*.eml") if _OUTBOX_NAME.fullmatch(each.name)]


def count_outbox_mails(conn: sqlite3.Connection, settings: MailSettings) -> int:
    """How many mails are in `outbox/` until a mail server is set; those that were removed count for a minute yet."""
    # Where there is a server they wait for it, as others do.
    return 0 if settings.url else int(conn.execute(f"SELECT count(*) FROM mails WHERE {_IN_OUTBOX}").fetchone()[0])


def count_unsecured_mails(conn: sqlite3.Connection) -> int:
    """How many mails wait because the mail server offers no STARTTLS."""
    query = "SELECT count(*) FROM mails WHERE next_attempt_at IS NOT NULL AND error LIKE ? || ':%'"
    return int(conn.execute(query, (UnsecuredMailServer.__name__,)).fetchone()[0])


def count_failing_mails(conn: sqlite3.Connection) -> tuple[int, str]:
    """How many mails wait because they couldn't be sent for another reason, and the error of the latest of them."""
    query = (
        "SELECT count(*) OVER (), error FROM mails WHERE next_attempt_at IS NOT NULL AND error <> ''"
        " AND error NOT LIKE ? || ':%' ORDER BY id DESC LIMIT 1"
    )
    row = conn.execute(query, (UnsecuredMailServer.__name__,)).fetchone()
    return (row[0], row[1]) if row else (0, "")


def find_oldest_failing(conn: sqlite3.Connection) -> Mapping[bool, tuple[int, int]]:
    """How many mails wait because they couldn't be sent, and since when the oldest of them does (milliseconds): those
    that were refused for their recipients (True), and the others.
    """
    rows = conn.execute(
        "SELECT error LIKE 'SMTPRecipientsRefused:%' AS is_refused, count(*), min(created_at) FROM mails"
        " WHERE next_attempt_at IS NOT NULL AND error <> '' GROUP BY is_refused"
    )
    return {bool(is_refused): (count, oldest_at) for is_refused, count, oldest_at in rows}


def list_refused_recipients(conn: sqlite3.Connection) -> set[str]:
    """The addresses whose last mail the mail server has refused, as far as mails are kept."""
    rows = conn.execute(
        "SELECT recipient, error LIKE 'SMTPRecipientsRefused:%', max(id) FROM mails"
        " WHERE sent_at IS NOT NULL OR error <> '' GROUP BY recipient"
    )
    return {recipient for recipient, is_refused, _ in rows if is_refused}


@cache
def _template_environment() -> "Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.TEMPLATES / "mail"),
        autoescape=lambda name: bool(name) and str(name).endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.filters.update(credits=i18n.format_credits, money=i18n.format_money, date_time=i18n.format_date_time)
    environment.install_gettext_callables(i18n.gettext, i18n.ngettext, newstyle=True)  # type: ignore[attr-defined]
    return environment
