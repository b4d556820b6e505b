"""Four weeks of invented messages, stored by the same services as real ones, so that `check` finds no problem."""

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from portal.core import gsm0338
from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS, now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_, gettext
from portal.core.progress import Progress
from portal.services.accounts import accounts, session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.session_records import SmppSessionEnd, SmppSessionRecord
from portal.services.common import message_states
from portal.services.common.audit import Actor
from portal.services.common.credit_amounts import THOUSANDTHS
from portal.services.credits import credits
from portal.services.messages import deliveries, inbound, intake, outcomes, smpp_config, validation
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.smpp_config import AccountConfig
from portal.services.messages.validation import SubmittedMessage
from portal.services.prices import price_lists, prices
from portal.services.prices.prices import PriceList
from portal.smsc.protocol.constants import format_receipt_status
from portal.smsc.protocol.pdu import SubmitSm

_DAYS = 28
_OFFICE_HOURS = (7, 20)
# Fixed, so that the demo shows the same as its documentation.
_SEED = 3550

_TEXTS = (
    N_("ACME: parcel {n} is on its way and arrives today between 10 and 12."),
    N_("ACME: parcel {n} has left our warehouse."),
    N_("Your parcel {n} waits at the pick-up point until Saturday."),
    N_("ACME: thank you for order {n}. We write again when it is on its way."),
    N_("ACME code {n}. Never tell it to anyone."),
    N_("Parcel {n}: delivered. Thank you! 📦"),
    N_(
        "We missed you with parcel {n}. Choose another day, a neighbour or a pick-up point at"
        " https://acme.example/p/{n}, or answer this message with 1 for tomorrow, 2 for the day after, 3 for the"
        " pick-up point."
    ),
)
_DESTINATIONS = ("3934", "3933", "3932", "336", "346", "4915", "447", "4366", "4177", "351")
# Of a thousand messages, by state and ptt code.
_OUTCOME_WEIGHTS = {
    (message_states.DELIVERED, 0): 955,
    (message_states.UNDELIVERABLE, 800): 14,
    (message_states.UNDELIVERABLE, 3): 12,
    (message_states.EXPIRED, 801): 13,
    (message_states.REJECTED, 803): 6,
}


@dataclass(frozen=True)
class _DemoTraffic:
    """How an account sends: messages on a working day, sender, grants (days ago, credits), IP address of its client."""

    account: str
    messages_per_day: int
    source: str
    grants: tuple[tuple[int, int], ...]
    address: str = ""


_SENDING_PATTERNS = (
    _DemoTraffic("smpp-demo-1", 170, "ACME", ((_DAYS, 4000), (13, 3000), (2, 1500)), "198.51.100.4"),
    _DemoTraffic("sms-demo-1", 12, "ACME", ((_DAYS, 500),)),
    _DemoTraffic("smpp-globex-1", 30, "GLOBEX", ((_DAYS, 1000),), "192.0.2.25"),
)

# Messages from handsets: days ago, after how many minutes a client accepted it (None: never), sender, text.
_INBOUND_MESSAGES = (
    (26, 1, "393401112233", "2"),
    (21, 1, "393331234567", N_("Thank you, all is well!")),
    (17, None, "4915112345678", N_("Where is my parcel?")),
    (12, 3, "33612345678", N_("Thanks, tomorrow morning if possible")),
    (9, 1, "393471230000", "1"),
    (6, 1, "447911123456", "STOP"),
    (4, 2, "393401112233", N_("Can you leave it with the neighbour? 📦")),
    (2, 1, "393331234567", "3"),
    (1, 1, "351912345678", N_("Thank you")),
)


def seed_history(conn: sqlite3.Connection, operator: Actor, progress: Progress) -> None:
    """Grant the credits and store the messages of the last four weeks, in the order of their time.

    The database must not have had any message yet: ids only grow.

    Args:
        progress: is told grants and groups of messages.

    Raises:
        KeyboardInterrupt: from `progress`; nothing is stored.
    """
    rng = random.Random(_SEED)
    configs = {each.name: each for each in smpp_config.load_account_configs(conn)}
    now = now_ms()
    price_list = prices.load_price_lists(conn, now).get_or_default(price_lists.DEFAULT_LIST)
    upstream_ids = count((now - _DAYS * DAY_MS) << 8)
    with write_transaction(conn):
        sessions = _seed_smpp_sessions(conn, now)
        events = sorted(_iterate_traffic_events(rng, now), key=lambda each: each[0])
        for number, (at, pattern, amount) in enumerate(events):
            progress(number, len(events))
            if amount:
                account = accounts.get_account(conn, pattern.account)
                credits.grant_credits(conn, operator, account, amount * THOUSANDTHS, now=at)
            else:
                session_id = sessions.get((pattern.account, at // DAY_MS))
                submits = [
                    _build_submit(rng, configs[pattern.account], pattern.source, price_list, session_id)
                    for _ in range(rng.randint(1, 7))
                ]
                _store_messages(conn, rng, submits, upstream_ids, at)


def _seed_smpp_sessions(conn: sqlite3.Connection, now: int) -> dict[tuple[str, int], int]:
    """Store ended sessions, one a day for each account with a client.

    Returns:
        The ids of the sessions, by account name and day (days since 1970).
    """
    session_ids = {}
    days = range((now // DAY_MS) - _DAYS, now // DAY_MS + 1)
    for pattern in _SENDING_PATTERNS:
        if pattern.address:
            account = accounts.get_account(conn, pattern.account)
            for day in days:
                session_id = session_records.get_last_smpp_session_id(conn) + 1
                begin, end = day * DAY_MS, min((day + 1) * DAY_MS, now)
                opened = SmppSessionRecord(
                    session_id, account.id, pattern.address, "transceiver", "TLSv1.3", 0, begin, end
                )
                session_records.insert_smpp_sessions(conn, [opened])
                session_records.close_smpp_sessions(conn, [SmppSessionEnd(session_id, end, keep_record=True)])
                session_ids[pattern.account, day] = session_id
    return session_ids


def seed_inbound_messages(conn: sqlite3.Connection, account: Account, number: str) -> None:
    """Store messages of the last four weeks from handsets to a number of an account."""
    now = now_ms()
    for days_ago, minutes, source, text in _INBOUND_MESSAGES:
        at = now - days_ago * DAY_MS + 37 * MINUTE_MS
        text = gettext(text)
        message = MobileOriginatedMessage(source, number, text, gsm0338.choose_encoding(text))
        inbound.store_inbound_messages(conn, [message], at)
        if minutes is None:
            deliveries.expire_deliveries(conn, at + validation.DELIVERY_VALIDITY_MS + 1)
        else:
            due = deliveries.list_due_deliveries(conn, account.id, at, 10).ready
            deliveries.remove_accepted_deliveries(conn, due, at + minutes * MINUTE_MS)


def _iterate_traffic_events(rng: random.Random, now: int) -> Iterator[tuple[int, _DemoTraffic, int]]:
    """Yield (time, pattern, credits) of the events: a grant of credits, or 0 for a burst of messages."""
    for pattern in _SENDING_PATTERNS:
        for days_ago, amount in pattern.grants:
            yield now - days_ago * DAY_MS, pattern, amount
        for days_ago in range(_DAYS):
            midnight = (now // DAY_MS - days_ago) * DAY_MS
            at_weekend = (midnight // DAY_MS + 3) % 7 >= 5  # 1 January 1970 was a Thursday
            bursts = round(pattern.messages_per_day / 4 * (0.25 if at_weekend else 1) * rng.uniform(0.8, 1.2))
            for _ in range(bursts):
                at = midnight + round(rng.uniform(*_OFFICE_HOURS) * HOUR_MS)
                if now - _DAYS * DAY_MS < at < now - MINUTE_MS:
                    yield at, pattern, 0


def _store_messages(
    conn: sqlite3.Connection, rng: random.Random, submits: list[SubmittedMessage], upstream_ids: Iterator[int], at: int
) -> None:
    finished = []
    for message_id in intake.store_messages(conn, submits, now=at).message_ids:
        if message_id is not None:
            state, ptt = rng.choices(list(_OUTCOME_WEIGHTS), list(_OUTCOME_WEIGHTS.values()))[0]
            done_at = at + rng.randint(1_500, 20_000)
            status = format_receipt_status(state, ptt)
            finished.append(MessageOutcome(message_id, state, ptt, done_at, f"{next(upstream_ids):x}", status))
    outcomes.finish_messages(conn, finished)


def invent_text(rng: random.Random) -> str:
    """A text as the demo's accounts send them, in the language in use."""
    return gettext(rng.choice(_TEXTS)).format(n=rng.randrange(10**5, 10**6))


def invent_destination(rng: random.Random, end: str = "") -> str:
    """A number as the demo's accounts send to; `end`: its last digits."""
    prefix = rng.choice(_DESTINATIONS)
    return prefix + "".join(rng.choices("0123456789", k=11 - len(prefix) - len(end))) + end


def _build_submit(
    rng: random.Random, account: AccountConfig, source: str, price_list: PriceList, session_id: int | None
) -> SubmittedMessage:
    text = invent_text(rng)
    encoding = gsm0338.choose_encoding(text)
    message = SubmitSm(
        sequence=0,
        source=source,
        source_ton=5,
        destination=invent_destination(rng),
        data_coding=int(encoding),
        short_message=gsm0338.encode_body(text, encoding),
    )
    submit = validation.validate_submit(account, price_list, message)
    submit.session_id = session_id
    return submit
