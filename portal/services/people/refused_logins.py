"""Logins that were refused: a row of the audit log and a log line for each, counted together where they are many.

A flood must neither fill the disk nor make each request wait for it. So tries are counted in memory, and a job writes
them once a second (`write_refused_logins`). A process that is killed loses those of its last second.

Wrong second factors are counted besides, since whoever comes that far knows the password: after five in a day the
person gets a mail.
"""

import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from portal.core.clock import HOUR_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.services.common import audit, mail
from portal.services.common.audit import Actor
from portal.services.people import login_mails
from portal.services.people.login_limits import list_networks
from portal.services.people.users import User

_log = logging.getLogger(__name__)

# Why a login was refused: the actions of the audit log.
UNKNOWN_EMAIL = "login.unknown_email"
WRONG_PASSWORD = "login.wrong_password"
WRONG_CODE = "login.wrong_code"
WRONG_RECOVERY_CODE = "login.wrong_recovery_code"
THROTTLED = "login.throttled"
WRONG_CONFIRMATION = "user.wrong_password"
"""By somebody who is logged in, and had to confirm something."""
REASONS = (UNKNOWN_EMAIL, WRONG_PASSWORD, WRONG_CODE, WRONG_RECOVERY_CODE, THROTTLED, WRONG_CONFIRMATION)
# Guesses: of these the e-mail address belongs to a user. They are few, for a password was hashed before, so they have
# rows and lines of their own: a flood of throttled tries takes none from them.
_OF_USERS = (WRONG_PASSWORD, WRONG_CODE, WRONG_RECOVERY_CODE, WRONG_CONFIRMATION)

SEVERAL = ""
"""The actor, or the address, of a row in which tries of several are counted together."""

# As many characters as a login looks at, and an address has (RFC 5321, 4.5.3.1.3): it is looked up by these.
_MAX_EMAIL_LENGTH = 254
_NO_EMAIL = "-"
# Rows of an hour: of one network or one e-mail address, and of all. What is above is counted together.
_MAX_ROWS, _MAX_ROWS_IN_ALL = 10, 100
_MAX_TALLIES = 1000
# Each of so many tries of a network and reason in an hour has a line of the log; so many addresses have them at once.
_MAX_LINES, _MAX_ADDRESSES_AT_ONCE = 10, 10
_MAX_NETWORKS = 10_000
# So many wrong second factors are no slips of the finger.
_MAIL_AFTER_WRONG_CODES = 5

# Reason, e-mail address, and the address that the request came from.
_Key = tuple[str, str, str]


@dataclass
class _Tally:
    """Tries that are alike: how many, when the first and the last one came, and how many the log has not told of."""

    first_at: int
    last_at: int
    count: int
    untold: int


class _Memory:
    """What this process has counted and not yet written, and the tries of this hour by network, for the log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[_Key, _Tally] = {}
        self._hour = 0
        self._network_counts: Counter[tuple[str, str]] = Counter()

    def add(self, key: _Key, tally: _Tally) -> None:
        with self._lock:
            if key not in self._tallies and len(self._tallies) >= _MAX_TALLIES and key[0] not in _OF_USERS:
                key = (key[0], SEVERAL, SEVERAL)
            known = self._tallies.setdefault(key, tally)
            if known is not tally:
                known.count += tally.count
                known.untold += tally.untold
                known.last_at = max(known.last_at, tally.last_at)

    def take(self) -> dict[_Key, _Tally]:
        with self._lock:
            tallies, self._tallies = self._tallies, {}
        return tallies

    def count_for_log(self, reason: str, address: str, count: int, now: int) -> list[int]:
        """Count tries of a network that were refused for one reason, so that those which ban nobody take no lines from
        the others. Returns which of this hour they are, of those that are worth a line: the first ten are, and then
        one where a tenth, hundredth and so on has come."""
        if now // HOUR_MS != self._hour or len(self._network_counts) >= _MAX_NETWORKS:
            self._hour = now // HOUR_MS
            self._network_counts.clear()
        key = (reason, _get_network(address))
        before = self._network_counts[key]
        self._network_counts[key] = after = before + count
        numbers = list(range(before + 1, min(after, _MAX_LINES) + 1))
        step = 10 ** (len(str(after)) - 1)
        if after > _MAX_LINES and after // step != max(before, _MAX_LINES) // step:
            numbers.append(after)
        return numbers


_memory = _Memory()


def record_refused_login(reason: str, email: str, address: str) -> None:
    """Record a try to log in that was refused. It costs neither a transaction nor a line of the log at once.

    Args:
        reason: one of REASONS.
        email: as it was typed.
        address: where the request comes from.
    """
    now = now_ms()
    shown_email = "".join(each if each.isprintable() else "\ufffd" for each in email.strip()[:_MAX_EMAIL_LENGTH])
    _memory.add((reason, shown_email or _NO_EMAIL, address), _Tally(now, now, 1, 1))


def write_refused_logins(conn: sqlite3.Connection) -> None:
    """Write what was recorded since the last time to the log and to the audit log.

    The first tries of an hour have rows of their own, each with the count of those that are alike. Where a network, an
    e-mail address, or all together have had their rows, further tries are counted in one row for it. Guesses come
    first, those at users before the others, and have as many rows for themselves. Tries with a user's e-mail address
    are never counted together with others', so that unknown ones can't hide them.
    """
    tallies = _memory.take()
    if not tallies:
        return
    try:
        customers = _list_customers(conn, [email for _, email, _ in tallies])
        tallies = dict(
            sorted(tallies.items(), key=lambda each: (each[0][0] == THROTTLED, each[0][1].lower() not in customers))
        )
        _write_log_lines(tallies)
        with write_transaction(conn):
            rows = _RecentRows(conn, now_ms(), customers)
            for key, tally in tallies.items():
                rows.add(key, tally)
            rows.write_counts()
    except BaseException:
        for key, tally in tallies.items():
            _memory.add(key, tally)
        raise


def _list_customers(conn: sqlite3.Connection, emails: list[str]) -> dict[str, int | None]:
    """The customers' ids of those e-mail addresses, in lower case, that belong to users; an operator has none."""
    places = ", ".join("?" * len(emails))
    rows = conn.execute(f"SELECT email, customer_id FROM users WHERE email IN ({places})", emails)
    return {row["email"].lower(): row["customer_id"] for row in rows}


def _write_log_lines(tallies: dict[_Key, _Tally]) -> None:
    """A line for each try, up to ten of a network; docs/operating.md has a filter for fail2ban that counts them."""
    now, others = now_ms(), 0
    named: set[str] = set()
    for (reason, email, address), tally in tallies.items():
        numbers = _memory.count_for_log(reason, address, tally.untold, now) if tally.untold else []
        if address and (reason in _OF_USERS or address in named or len(named) < _MAX_ADDRESSES_AT_ONCE):
            for number in numbers:
                named.add(address)
                # What somebody has typed comes last, so that it can't pass for an address.
                _log.warning("login refused: %s address=%s tries=%d email=%s", reason, address, number, email)
        elif numbers:
            others += tally.untold
        tally.untold = 0
    if others:
        _log.warning("more logins refused: %d", others)


class _RecentRows:
    """The audit log's rows of refused logins of the last hour."""

    def __init__(self, conn: sqlite3.Connection, now: int, customers: Mapping[str, int | None]) -> None:
        self._conn = conn
        self._customers = customers
        self._ids: dict[_Key, int] = {}
        self._counts: Counter[tuple[bool, str, str]] = Counter()
        self._added: dict[int, tuple[int, int]] = {}
        # By the index of times, not by that of actions, which has those of all years.
        rows = conn.execute(
            f"SELECT id, action, actor, address FROM audit_log WHERE at BETWEEN ? AND ? AND +action IN ({_PLACES})",
            (now - HOUR_MS, now, *REASONS),
        )
        for row in rows:
            self._remember((row["action"], row["actor"], row["address"]), row["id"])

    def _remember(self, key: _Key, row_id: int) -> None:
        self._ids[key] = row_id
        reason, email, address = key
        of_users = reason in _OF_USERS
        self._counts.update(
            [(of_users, "all", ""), (of_users, "email", email.lower()), (of_users, "network", _get_network(address))]
        )

    def add(self, key: _Key, tally: _Tally) -> None:
        """Count tries in their row, which is written at once where it is a new one, or else by `write_counts`."""
        key = self._choose_row(key)
        row_id = self._ids.get(key)
        if row_id is None:
            self._remember(key, self._insert(key, tally))
            return
        count, last_at = self._added.get(row_id, (0, 0))
        self._added[row_id] = (count + tally.count, max(last_at, tally.last_at))

    def write_counts(self) -> None:
        """Write each row once, however many were counted in it."""
        self._conn.executemany(
            "UPDATE audit_log SET details = json_set(details, '$.count', (details ->> 'count') + ?1,"
            " '$.last_at', max(details ->> 'last_at', ?2)) WHERE id = ?3",
            [(*added, row_id) for row_id, added in self._added.items()],
        )

    def _choose_row(self, key: _Key) -> _Key:
        reason, email, address = key
        network = _get_network(address)
        is_users, of_users = email.lower() in self._customers, reason in _OF_USERS
        if key in self._ids:
            return key
        if address and not is_users and self._counts[of_users, "network", network] >= _MAX_ROWS:
            return (reason, SEVERAL, network)
        if email and self._counts[of_users, "email", email.lower()] >= _MAX_ROWS:
            return (reason, email.lower(), SEVERAL)
        if self._counts[of_users, "all", ""] < _MAX_ROWS_IN_ALL:
            return key
        return (reason, email.lower() if is_users else SEVERAL, SEVERAL)

    def _insert(self, key: _Key, tally: _Tally) -> int:
        reason, email, address = key
        return audit.record_action(
            self._conn,
            Actor(email, address),
            reason,
            customer_id=self._customers.get(email.lower()),
            at=tally.first_at,
            count=tally.count,
            last_at=tally.last_at,
        )


_PLACES = ", ".join("?" * len(REASONS))


def _get_network(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one; what is neither, such as a network, as it is."""
    try:
        return list_networks(address)[0]
    except ValueError:
        return address


# --- wrong second factors


def count_wrong_second_factor(conn: sqlite3.Connection, keys: Keys, user: User, address: str) -> None:
    """Count a wrong code; with the fifth of a day the person gets a mail.

    A right login doesn't end the count: the person's own ones would keep somebody else's tries from being told.

    Args:
        address: where the request comes from.
    """
    with write_transaction(conn):
        query = "UPDATE users SET wrong_codes = wrong_codes + 1 WHERE id = ? RETURNING wrong_codes"
        if conn.execute(query, (user.id,)).fetchone()[0] == _MAIL_AFTER_WRONG_CODES:
            language = login_mails.read_language(conn, user)
            mail.queue_mail(conn, keys, user.email, "wrong_codes", language, email=user.email, address=address)


def forget_wrong_second_factors(conn: sqlite3.Connection) -> None:
    """Begin to count anew, once a day."""
    conn.execute("UPDATE users SET wrong_codes = 0 WHERE wrong_codes > 0")
