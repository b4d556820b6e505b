"""Four weeks of messages that nobody sent, written by the services that write real ones, so that `check` is content."""

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from portal.core import gsm0338
from portal.core.clock import DAY_MS, now_ms
from portal.core.db import immediate
from portal.services.accounts import accounts, credentials, session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.session_records import Connection, Ending
from portal.services.common import credit_amounts, message_states
from portal.services.common.audit import Actor
from portal.services.credits import credits
from portal.services.messages import deliveries, inbound, intake, outcomes, smpp_config, validation
from portal.services.messages.inbound import FromHandset
from portal.services.messages.outcomes import Outcome
from portal.services.messages.smpp_config import AccountConfig
from portal.services.messages.validation import Submit
from portal.services.prices import price_lists, prices
from portal.services.prices.prices import PriceList
from portal.smsc.protocol.constants import in_receipt

_DAYS = 28
_HOUR_MS = 3_600_000
_OFFICE_HOURS = (7, 20)
# The same for everyone who tries the demo, so that what is written about it stays true.
_SEED = 3550

_TEXTS = (
    "ACME: parcel {n} is on its way and arrives today between 10 and 12.",
    "ACME: il pacco {n} è in consegna oggi tra le 10 e le 12.",
    "Your parcel {n} waits at the pick-up point until Saturday.",
    "Il tuo pacco {n} ti aspetta al punto di ritiro fino a sabato.",
    "ACME code {n}. Never tell it to anyone.",
    "Parcel {n}: delivered. Thank you! 📦",
    "We missed you with parcel {n}. Choose another day, a neighbour or a pick-up point at https://acme.example/p/{n},"
    " or answer this message with 1 for tomorrow, 2 for the day after, 3 for the pick-up point.",
)
_DESTINATIONS = ("3934", "3933", "3932", "336", "346", "4915", "447", "4366", "4177", "351")
_FATES = (
    (message_states.DELIVERED, 0),
    (message_states.UNDELIVERABLE, 800),
    (message_states.UNDELIVERABLE, 3),
    (message_states.EXPIRED, 801),
    (message_states.REJECTED, 803),
)
_SHARES = (955, 14, 12, 13, 6)


@dataclass(frozen=True)
class _Habit:
    """How an account sends: messages on a working day, its sender, its grants (days ago, credits), and from where."""

    account: str
    a_day: int
    source: str
    grants: tuple[tuple[int, int], ...]
    address: str = ""


_HABITS = (
    _Habit("smpp-demo-1", 170, "ACME", ((_DAYS, 4000), (13, 3000), (2, 1500)), "198.51.100.4"),
    _Habit("sms-demo-1", 12, "ACME", ((_DAYS, 500),)),
    _Habit("smpp-globex-1", 30, "GLOBEX", ((_DAYS, 1000),), "192.0.2.25"),
)

# What handsets answered: days ago, and in how many minutes a client accepted it (None: never, and it was given up).
_ANSWERS = (
    (26, 1, "393401112233", "2"),
    (21, 1, "393331234567", "Grazie, tutto perfetto!"),
    (17, None, "4915112345678", "Wo ist mein Paket?"),
    (12, 3, "33612345678", "Merci, demain matin si possible"),
    (9, 1, "393471230000", "1"),
    (6, 1, "447911123456", "STOP"),
    (4, 2, "393401112233", "Potete lasciarlo dal vicino? 📦"),
    (2, 1, "393331234567", "3"),
    (1, 1, "351912345678", "Obrigado"),
)


def make_up(conn: sqlite3.Connection, operator: Actor) -> None:
    """Grant the credits and send the messages of the last four weeks, in the order of their time.

    The database has seen no message yet: ids only grow.
    """
    chance = random.Random(_SEED)
    configs = {each.name: each for each in smpp_config.load(conn)}
    now = now_ms()
    price_list = prices.load(conn, now).of_list(price_lists.DEFAULT_LIST)
    own_ids = count((now - _DAYS * DAY_MS) << 8)
    with immediate(conn):
        sessions = _connect(conn, now)
        for at, habit, amount in sorted(_happenings(chance, now), key=lambda each: each[0]):
            if amount:
                account = accounts.by_name(conn, habit.account)
                credits.grant(conn, operator, account, amount * credit_amounts.THOUSANDTHS, now=at)
            else:
                session_id = sessions.get((habit.account, at // DAY_MS))
                submits = [
                    _submit(chance, configs[habit.account], habit.source, price_list, session_id)
                    for _ in range(chance.randint(1, 7))
                ]
                _send(conn, chance, submits, own_ids, at)


def _connect(conn: sqlite3.Connection, now: int) -> dict[tuple[str, int], int]:
    """Let clients have been connected, each day (since 1970) for a day; returns the ids of their sessions."""
    found = {}
    days = range((now // DAY_MS) - _DAYS, now // DAY_MS + 1)
    for habit in _HABITS:
        if habit.address:
            account = accounts.by_name(conn, habit.account)
            password = credentials.info(conn, account.id)
            for day in days:
                session_id = session_records.latest_id(conn) + 1
                begin, end = day * DAY_MS, min((day + 1) * DAY_MS, now)
                opened = Connection(
                    session_id,
                    account.id,
                    habit.address,
                    "transceiver",
                    "TLSv1.3",
                    password.id if password else 0,
                    begin,
                    end,
                )
                session_records.opened(conn, [opened])
                session_records.closed(conn, [Ending(session_id, end, kept=True)])
                found[habit.account, day] = session_id
    return found


def make_up_answers(conn: sqlite3.Connection, account: Account, number: str) -> None:
    """Let handsets have answered to a number of an account in the last four weeks."""
    now = now_ms()
    for days_ago, minutes, source, text in _ANSWERS:
        at = now - days_ago * DAY_MS + 37 * 60_000
        inbound.take_in(conn, [FromHandset(source, number, text, gsm0338.choose(text))], at)
        if minutes is None:
            deliveries.expire(conn, at + validation.DELIVERIES_VALID_MS + 1)
        else:
            deliveries.done(conn, deliveries.due(conn, account.id, at, 10).now, at + minutes * 60_000)


def _happenings(chance: random.Random, now: int) -> Iterator[tuple[int, _Habit, int]]:
    """When, whose, and how many credits were granted; 0: messages were sent."""
    for habit in _HABITS:
        for days_ago, amount in habit.grants:
            yield now - days_ago * DAY_MS, habit, amount
        for days_ago in range(_DAYS):
            midnight = (now // DAY_MS - days_ago) * DAY_MS
            at_weekend = (midnight // DAY_MS + 3) % 7 >= 5  # 1 January 1970 was a Thursday
            bursts = round(habit.a_day / 4 * (0.25 if at_weekend else 1) * chance.uniform(0.8, 1.2))
            for _ in range(bursts):
                at = midnight + round(chance.uniform(*_OFFICE_HOURS) * _HOUR_MS)
                if now - _DAYS * DAY_MS < at < now - 60_000:
                    yield at, habit, 0


def _send(
    conn: sqlite3.Connection, chance: random.Random, submits: list[Submit], own_ids: Iterator[int], at: int
) -> None:
    ended = []
    for message_id in intake.store(conn, submits, now=at).ids:
        if message_id is not None:
            state, ptt = chance.choices(_FATES, _SHARES)[0]
            done_at = at + chance.randint(1_500, 20_000)
            ended.append(Outcome(message_id, state, ptt, done_at, f"{next(own_ids):x}", in_receipt(state, ptt)))
    outcomes.finish(conn, ended)


def _submit(
    chance: random.Random, account: AccountConfig, source: str, price_list: PriceList, session_id: int | None
) -> Submit:
    text = chance.choice(_TEXTS).format(n=chance.randrange(10**5, 10**6))
    encoding = gsm0338.choose(text)
    prefix = chance.choice(_DESTINATIONS)
    submit = validation.prepare(
        account,
        price_list,
        source=source,
        source_ton=5,
        source_npi=0,
        destination=prefix + "".join(chance.choices("0123456789", k=11 - len(prefix))),
        esm_class=0,
        data_coding=encoding,
        registered_delivery=0,
        body=gsm0338.to_body(text, encoding),
    )
    submit.session_id = session_id
    return submit
