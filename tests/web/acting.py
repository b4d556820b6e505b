"""What else happens while somebody looks at the pages: the server confirms, messages are sent, clients come and go."""

import html
import re
from collections.abc import Sequence
from html.parser import HTMLParser

from portal.core import clock, db
from portal.services.accounts import accounts, allowed_ips, credentials, refused_binds, session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.refused_binds import RefusedBind
from portal.services.accounts.session_records import Connection
from portal.services.common import message_states
from portal.services.common.audit import SHELL
from portal.services.messages import intake, outcomes, smpp_config, validation
from portal.services.statistics import rollup
from tests.support import prepared

# What became of a message ("ptt").
DELIVERED, UNDELIVERABLE = 0, 9
HOSTILE = "<script>alert(1)</script>"


def account(conn: db.Connection, name: str) -> Account:
    return accounts.by_name(conn, name)


def settle(conn: db.Connection) -> None:
    """Confirm every change, as the SMPP server does: UPDATING_IP becomes OK."""
    smpp_config.confirm(conn, {each.id: each.version for each in smpp_config.load(conn)})


def fill(conn: db.Connection, name: str, how_many: int) -> list[str]:
    """Authorise so many addresses more."""
    found = [f"198.51.100.{number}" for number in range(1, how_many + 1)]
    for each in found:
        allowed_ips.add(conn, SHELL, account(conn, name), each)
    return found


def send(
    conn: db.Connection,
    name: str,
    *texts: str,
    source: str = "ACME",
    at: int | None = None,
    session_id: int | None = None,
) -> list[int]:
    """Send these texts, in the past too (milliseconds; what is newer comes later); they are on their way."""
    return _send(conn, name, source, [(text, None) for text in texts], at, session_id)


def send_in_parts(conn: db.Connection, name: str, *parts: str, total: int = 0) -> list[int]:
    """Send the parts of a text as a client does that cuts it up itself; some may be missing of a `total`."""
    of = total or len(parts)
    return _send(
        conn, name, "ACME", [(part, validation.Segment(7, of, number)) for number, part in enumerate(parts, 1)]
    )


def schedule(conn: db.Connection, name: str, text: str, at: int) -> int:
    """Submit a text that is to go out at a moment (milliseconds)."""
    submit = prepared(conn, accounts.by_name(conn, name).id, text.encode(), source="ACME", scheduled_at=at)
    (message_id,) = intake.store(conn, [submit]).ids
    assert message_id is not None
    return message_id


def call_back(conn: db.Connection, name: str, message_id: int) -> None:
    """Cancel a message as its client does."""
    found = outcomes.find(conn, accounts.by_name(conn, name).id, message_id)
    assert found is not None
    outcomes.cancel(conn, [found])
    rollup.gather_all(conn)


def _send(
    conn: db.Connection,
    name: str,
    source: str,
    texts: Sequence[tuple[str, validation.Segment | None]],
    at: int | None = None,
    session_id: int | None = None,
) -> list[int]:
    account_id = accounts.by_name(conn, name).id
    submits = [
        prepared(
            conn, account_id, text.encode("utf-16-be"), source=source, data_coding=validation.UCS2, segment=segment
        )
        for text, segment in texts
    ]
    for each in submits:
        each.session_id = session_id
    stored = intake.store(conn, submits, at)
    rollup.gather_all(conn)
    return [each for each in stored.ids if each is not None]


def deliver(conn: db.Connection, *message_ids: int) -> None:
    ended = [outcomes.Outcome(each, message_states.DELIVERED, DELIVERED, clock.now_ms()) for each in message_ids]
    outcomes.finish(conn, ended)
    rollup.gather_all(conn)


def fail(conn: db.Connection, *message_ids: int, ptt: int = UNDELIVERABLE) -> None:
    ended = [outcomes.Outcome(each, message_states.UNDELIVERABLE, ptt, clock.now_ms()) for each in message_ids]
    outcomes.finish(conn, ended)
    rollup.gather_all(conn)


def connect(conn: db.Connection, name: str, number: int = 1, **values: object) -> None:
    """Let a client be connected."""
    password = credentials.info(conn, account(conn, name).id)
    now = clock.now_ms()
    session = {
        "id": number,
        "account_id": account(conn, name).id,
        "address": "198.51.100.20",
        "bind_type": "transceiver",
        "tls": "TLSv1.3",
        "password_id": password.id if password else 0,
        "bound_at": now,
        "seen_at": now,
    }
    session_records.opened(conn, [Connection(**(session | values))])  # type: ignore[arg-type]


def refuse(
    conn: db.Connection, name: str, address: str, reason: str = refused_binds.NOT_AUTHORISED, times: int = 1
) -> None:
    """Let a client be turned away."""
    row = RefusedBind(account(conn, name).id, address, reason, clock.now_ms())
    refused_binds.refused(conn, [row] * times)


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def words(page: str) -> str:
    """What a page says, without its markup and with single spaces."""
    parser = _Words()
    parser.feed(page)
    return " ".join(" ".join(parser.found).split())


def value_of(page: str, name: str) -> str:
    """The value of the first field of this name."""
    field = re.search(rf'<input[^>]*\bname="{name}"[^>]*>', page)
    assert field, f"there is no field {name}"
    value = re.search(r'\bvalue="([^"]*)"', field[0])
    return html.unescape(value[1]) if value else ""
