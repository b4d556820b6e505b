"""Whether an account's credits run short: alerts, and how long the credits will last at the rate of its last days.

A notice is stored in the transaction of what has happened, and mailed afterwards (`credit_mails`).
"""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from portal.core import i18n
from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.db import insert_row, update_row, write_transaction
from portal.core.i18n import N_, gettext, ngettext
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.common import ids
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.common.message_states import PTT_NO_CREDIT
from portal.services.people.customers import parse_email

# Kinds of notices.
LOW, RECREDITED, REQUESTED = "low", "recredited", "requested"
# Beside LOW, a balance below the alert's threshold: the last message was refused, since the credits didn't cover it.
REFUSED = "refused"

MAX_ADDRESSES = 5
_ADDRESS_SEPARATORS = re.compile(r"[\s,;]+")

# Today and the six days before it, as the statistics count them (UTC).
_DAYS = 7
_HOURS_UNTIL_MS = 2 * DAY_MS
_WEEKDAY_UNTIL_MS = 7 * DAY_MS
_YEAR_MS = 365 * DAY_MS


class TooManyAlertAddresses(Refused, field="to"):
    sentence = N_("An alert goes to at most %(most)s addresses.")


def is_threshold_crossed(threshold: int | None, before: int, after: int) -> bool:
    """Whether a balance has fallen below a threshold, and was not below it before. All in thousandths of a credit."""
    return threshold is not None and after < threshold <= before


def add_credit_notice(
    conn: sqlite3.Connection, account_id: int, kind: str, at: int, balance: int, order_id: int | None = None
) -> None:
    """Store a notice that a mail will report. The caller is inside `write_transaction()`.

    Args:
        kind: LOW, RECREDITED or REQUESTED.
        at: when it happened (milliseconds).
        balance: what it left (thousandths of a credit).
        order_id: the order that was made.
    """
    insert_row(conn, "credit_notices", account_id=account_id, kind=kind, at=at, balance=balance, order_id=order_id)


# --- the rule


def set_alert_rule(
    conn: sqlite3.Connection, actor: Actor, account: Account, below: int | None, addresses: Sequence[str] = ()
) -> None:
    """Set below which balance a mail goes out, and to whom.

    Args:
        below: the threshold (thousandths of a credit); None: no mail, and the addresses are forgotten.
        addresses: at most five; none: the customer's contact address, whichever that is.

    Raises:
        InvalidEmail, TooManyAddresses
    """
    checked = deduplicate_addresses(parse_email(each, "to") for each in addresses) if below is not None else []
    if len(checked) > MAX_ADDRESSES:
        raise TooManyAlertAddresses(most=MAX_ADDRESSES)
    with write_transaction(conn):
        update_row(conn, "accounts", account.id, alert_below=below, alert_to=" ".join(checked))
        record_account_action(conn, actor, "alert.set", account, below=below, to=checked)


def parse_email_addresses(text: str) -> list[str]:
    """The addresses in a text, with spaces, commas, semicolons or lines between them."""
    return [each for each in _ADDRESS_SEPARATORS.split(text) if each]


def deduplicate_addresses(addresses: Iterable[str]) -> list[str]:
    """Addresses without those that are there twice, however they are written: one mail is enough."""
    unique: dict[str, str] = {}
    for each in addresses:
        unique.setdefault(each.casefold(), each)
    return list(unique.values())


# --- how long they will last


@dataclass(frozen=True, slots=True)
class Forecast:
    """`balance` and `spent_per_day` in thousandths of a credit; `lasts_ms` None where nothing was spent."""

    balance: int
    spent_per_day: int
    lasts_ms: int | None

    def to_text(self, now: int) -> str:
        """In the language in use.

        Args:
            now: when it was made (milliseconds).
        """
        if self.lasts_ms is None:
            return gettext("No messages in the last 7 days.")
        if self.balance <= 0:
            return gettext("There are no credits left.")
        if self.lasts_ms < HOUR_MS:
            return gettext("At the rate of the last 7 days, the credits last for less than an hour.")
        if self.lasts_ms < _HOURS_UNTIL_MS:
            return ngettext(
                "At the rate of the last 7 days, the credits last for about %(num)s hour.",
                "At the rate of the last 7 days, the credits last for about %(num)s hours.",
                self.lasts_ms // HOUR_MS,
            )
        if self.lasts_ms < _WEEKDAY_UNTIL_MS:
            return gettext(
                "At the rate of the last 7 days, the credits last until %(weekday)s.",
                weekday=i18n.format_weekday(now + self.lasts_ms),
            )
        if self.lasts_ms < _YEAR_MS:
            return gettext(
                "At the rate of the last 7 days, the credits last for about %(days)s days (%(date)s).",
                days=i18n.format_number(self.lasts_ms // DAY_MS),
                date=i18n.format_day(now + self.lasts_ms),
            )
        return gettext("At the rate of the last 7 days, the credits last for more than a year.")


def compute_forecast(conn: sqlite3.Connection, account_id: int, now: int | None = None) -> Forecast:
    """How long an account's credits last if it goes on as in the last seven days.

    A younger account's rate is that of its days so far, of one at least: an hour of tests is no rate.

    Args:
        now: milliseconds; None: this moment.
    """
    at = now_ms() if now is None else now
    first_day = at // DAY_MS - (_DAYS - 1)
    balance, created_at, first_used, spent = conn.execute(
        "SELECT balance, created_at, min(day), coalesce(sum(price), 0) FROM accounts"
        " LEFT JOIN daily_totals ON account_id = accounts.id AND price > 0 AND day BETWEEN ? AND ?"
        " WHERE accounts.id = ?",
        (first_day, at // DAY_MS, account_id),
    ).fetchone()
    # A history that was brought along is older than its account.
    begins = created_at if first_used is None else min(created_at, first_used * DAY_MS)
    elapsed_ms = max(at - max(first_day * DAY_MS, begins), DAY_MS)
    return Forecast(balance, spent * DAY_MS // elapsed_ms, balance * elapsed_ms // spent if spent else None)


def find_credit_shortage(conn: sqlite3.Connection, account: Account, latest_message: int) -> str:
    """Whether an account's credits have run short: REFUSED, LOW, or "".

    Args:
        latest_message: the highest id of its messages, 0 where there are none.
    """
    # Credits that came since may cover the next message: nobody knows before it is sent.
    refused = conn.execute(
        "SELECT 1 FROM messages WHERE id = ?1 AND ptt = ?2 AND NOT EXISTS"
        " (SELECT 1 FROM movements WHERE account_id = ?3 AND id >= ?4 AND amount > 0)",
        (latest_message, PTT_NO_CREDIT, account.id, ids.min_id_at_time(ids.time_from_id(latest_message))),
    ).fetchone()
    if refused is not None:
        return REFUSED
    return LOW if account.alert_below is not None and account.balance < account.alert_below else ""
