"""Events behind the pages: the server confirms changes, messages are sent, clients connect and are refused."""

import html
import re
from collections.abc import Sequence
from html.parser import HTMLParser

from portal.core import clock, db
from portal.core.gsm0338 import Encoding
from portal.services.accounts import accounts, allowed_ips, credentials, refused_binds, session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.refused_binds import RefusedBind
from portal.services.accounts.session_records import SmppSessionRecord
from portal.services.common import message_states
from portal.services.common.audit import SHELL
from portal.services.messages import intake, outcomes, query_cancel, smpp_config, validation
from portal.services.statistics import rollup
from tests.support import prepare_submit

# Final statuses of messages ("ptt").
DELIVERED, UNDELIVERABLE = 0, 9
SCRIPT_INJECTION = "<script>alert(1)</script>"


def get_account(conn: db.Connection, name: str) -> Account:
    return accounts.get_account(conn, name)


def age_smpp_passwords(conn: db.Connection) -> None:
    """Two pages that show when they were changed say the same then: "4 seconds ago" they would only in one second."""
    conn.execute("UPDATE smpp_passwords SET created_at = created_at - ?", (2 * clock.DAY_MS,))


def confirm_changes(conn: db.Connection) -> None:
    """Confirm every change, as the SMPP server does: UPDATING_IP becomes OK."""
    smpp_config.save_applied_config_versions(
        conn, {each.id: each.version for each in smpp_config.load_account_configs(conn)}
    )


def add_allowed_ips(conn: db.Connection, name: str, count: int) -> list[str]:
    """Authorise so many addresses more."""
    addresses = [f"198.51.100.{number}" for number in range(1, count + 1)]
    for each in addresses:
        allowed_ips.add_allowed_ip(conn, SHELL, get_account(conn, name), each)
    return addresses


def send_texts(
    conn: db.Connection,
    name: str,
    *texts: str,
    source: str = "ACME",
    at: int | None = None,
    session_id: int | None = None,
) -> list[int]:
    """Send these texts, in the past too (milliseconds; what is newer comes later); they are on their way."""
    return _store_texts(conn, name, source, [(text, None) for text in texts], at, session_id)


def send_in_parts(conn: db.Connection, name: str, *parts: str, total: int = 0) -> list[int]:
    """Send the parts of a text as a client does that cuts it up itself; some may be missing of a `total`."""
    segment_total = total or len(parts)
    return _store_texts(
        conn,
        name,
        "ACME",
        [(part, validation.Segment(7, segment_total, number)) for number, part in enumerate(parts, 1)],
    )


def schedule_text(conn: db.Connection, name: str, text: str, at: int) -> int:
    """Submit a text that is to go out at a moment (milliseconds)."""
    submit = prepare_submit(conn, accounts.get_account(conn, name).id, text.encode(), source="ACME", scheduled_at=at)
    (message_id,) = intake.store_messages(conn, [submit]).message_ids
    assert message_id is not None
    return message_id


def cancel_message(conn: db.Connection, name: str, message_id: int) -> None:
    """Cancel a message as its client does."""
    message = query_cancel.find_message_status(conn, accounts.get_account(conn, name).id, message_id)
    assert message is not None
    query_cancel.cancel_messages(conn, [message])
    rollup.roll_up_all(conn)


def _store_texts(
    conn: db.Connection,
    name: str,
    source: str,
    texts: Sequence[tuple[str, validation.Segment | None]],
    at: int | None = None,
    session_id: int | None = None,
) -> list[int]:
    account_id = accounts.get_account(conn, name).id
    submits = [
        prepare_submit(
            conn, account_id, text.encode("utf-16-be"), source=source, data_coding=Encoding.UCS2, segment=segment
        )
        for text, segment in texts
    ]
    for each in submits:
        each.session_id = session_id
    stored = intake.store_messages(conn, submits, at)
    rollup.roll_up_all(conn)
    return [each for each in stored.message_ids if each is not None]


def deliver_messages(conn: db.Connection, *message_ids: int) -> None:
    delivered = [
        outcomes.MessageOutcome(each, message_states.DELIVERED, DELIVERED, clock.now_ms()) for each in message_ids
    ]
    outcomes.finish_messages(conn, delivered)
    rollup.roll_up_all(conn)


def fail_messages(conn: db.Connection, *message_ids: int, ptt: int = UNDELIVERABLE) -> None:
    failed = [outcomes.MessageOutcome(each, message_states.UNDELIVERABLE, ptt, clock.now_ms()) for each in message_ids]
    outcomes.finish_messages(conn, failed)
    rollup.roll_up_all(conn)


def open_session(conn: db.Connection, name: str, number: int = 1, **values: object) -> None:
    """Record an open session of a client."""
    password = credentials.find_smpp_password_info(conn, get_account(conn, name).id)
    now = clock.now_ms()
    session = {
        "id": number,
        "account_id": get_account(conn, name).id,
        "address": "198.51.100.20",
        "bind_type": "transceiver",
        "tls": "TLSv1.3",
        "password_id": password.id if password else 0,
        "bound_at": now,
        "seen_at": now,
    }
    session_records.insert_smpp_sessions(conn, [SmppSessionRecord(**(session | values))])  # type: ignore[arg-type]


def refuse_binds(
    conn: db.Connection, name: str, address: str, reason: str = refused_binds.NOT_AUTHORISED, times: int = 1
) -> None:
    """Record refused binds of a client."""
    row = RefusedBind(get_account(conn, name).id, address, reason, clock.now_ms())
    refused_binds.record_refused_binds(conn, [row] * times)


class _TextExtractor(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def extract_text(page: str) -> str:
    """What a page says, without its markup and with single spaces."""
    parser = _TextExtractor()
    parser.feed(page)
    return " ".join(" ".join(parser.texts).split())


def get_field_value(page: str, name: str) -> str:
    """The value of the first field of this name."""
    field = re.search(rf'<input[^>]*\bname="{name}"[^>]*>', page)
    assert field, f"there is no field {name}"
    value = re.search(r'\bvalue="([^"]*)"', field[0])
    return html.unescape(value[1]) if value else ""
