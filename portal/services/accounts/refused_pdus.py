"""The last refused PDUs of an account, for whoever debugs a client: whether they are kept, and what is kept of one.

The SMPP server has them in its memory alone; pages and the shell ask it for them.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused

MAX_PDUS, KEPT_MS = 100, HOUR_MS
"""So many of an account are kept, the newest, each for so long."""
SWITCHED_ON_MS = DAY_MS
"""For how long they are kept after that was switched on: nobody has to remember to switch it off."""

REFUSED_PDUS_QUERY = "refused_pdus"
"""What the SMPP server is asked for, with an `account_id`; it answers with a list of RefusedPdus, newest first."""


class NoSmppClients(Refused):
    sentence = N_("%(name)s is a classic account: it has no SMPP clients.")


@dataclass(frozen=True, slots=True)
class RefusedPdu:
    """A refused PDU, masked.

    `at`: milliseconds. `session`: its id. `command`: its name. `status`: the command_status that it was answered, name
    and number. `reason`, `value`: as in `refused_messages`; no reason: no credits. `fields`: those of its body that
    aren't empty, by their names in SMPP 3.4.
    """

    at: int
    address: str
    session: int
    command: str
    sequence_number: int
    status: str
    reason: str
    value: str
    fields: Mapping[str, str]


def set_refused_pdus_kept(conn: sqlite3.Connection, actor: Actor, account: Account, *, kept: bool) -> None:
    """Have them kept from now on, or not. Those that are kept are forgotten where it is switched off.

    Raises:
        NoSmppClients
    """
    if account.kind != "smpp":
        raise NoSmppClients(name=account.name)
    until = now_ms() + SWITCHED_ON_MS if kept else None
    with write_transaction(conn):
        if kept or get_kept_until(conn, account.id) is not None:
            conn.execute("UPDATE accounts SET refused_pdus_until = ? WHERE id = ?", (until, account.id))
            record_account_action(conn, actor, "account.refused_pdus", account, kept=kept)


def get_kept_until(conn: sqlite3.Connection, account_id: int) -> int | None:
    """Until when (milliseconds) they are kept; None: they aren't."""
    (until,) = conn.execute("SELECT refused_pdus_until FROM accounts WHERE id = ?", (account_id,)).fetchone()
    return until if until is not None and until > now_ms() else None
