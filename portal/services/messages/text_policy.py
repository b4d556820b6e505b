"""What becomes of the texts of a customer's messages: everybody sees them, viewers don't, or they aren't kept.

A text that isn't kept goes in the very transaction after which nobody needs it any more: the one that ends its message,
or that takes note that the receipt was accepted or given up, for a receipt quotes the text. So none can be forgotten,
however a process ends. Parts and price stay.
"""

import json
import sqlite3
from collections.abc import Collection

from portal.core.db import immediate
from portal.core.i18n import N_
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.common.message_states import ENROUTE
from portal.services.people import users
from portal.services.people.customers import Customer

SHOWN, HIDDEN, NONE = "shown", "hidden", "none"
CHOICES = (SHOWN, HIDDEN, NONE)

NOT_KEPT, NOT_SHOWN = N_("Text not kept"), N_("Text hidden")
"""What stands in the place of a text that was removed, or that the reader may not see; keys of the translations."""

BLANK = "text = '', body = NULL, udh = NULL, kept = 0"
"""What an UPDATE of `messages` or `received` sets where a text goes: binary octets and headers go with it."""


class InvalidTexts(Refused):
    sentence = N_("“%(value)s” isn't among what can become of texts: shown, hidden, none.")
    field = "texts"


class StoredTextsStay(Refused):
    sentence = N_("Stored texts are removed only where texts are not kept.")
    field = "remove_stored"


def may_read(texts: str, role: str) -> bool:
    """Whether a user of this role reads texts, where `texts` holds: those that aren't kept either, as long as they are
    there."""
    return texts == SHOWN or role != users.VIEWER


def missing(kept: int | None, hidden: bool) -> str:
    """What stands in the place of a text, in English; empty: the text does."""
    if not kept:
        return NOT_KEPT
    return NOT_SHOWN if hidden else ""


def not_kept(conn: sqlite3.Connection, account_ids: Collection[int]) -> set[int]:
    """Those of these accounts whose texts aren't kept. Cheap where no customer has chosen that."""
    if not any_not_kept(conn):
        return set()
    # In one row: Python lets go of its lock (GIL) for each.
    (found,) = conn.execute(
        "SELECT json_group_array(accounts.id) FROM json_each(?) CROSS JOIN accounts ON accounts.id = value"
        f" CROSS JOIN customers ON customers.id = customer_id WHERE texts = '{NONE}'",
        (json.dumps(list(account_ids)),),
    ).fetchone()
    return set(json.loads(found))


def any_not_kept(conn: sqlite3.Connection) -> bool:
    """Whether any customer's texts aren't kept."""
    (found,) = conn.execute(f"SELECT EXISTS (SELECT 1 FROM customers WHERE texts = '{NONE}')").fetchone()
    return bool(found)


def blank(conn: sqlite3.Connection, table: str, row_ids: Collection[int | None]) -> None:
    """Remove the texts of these rows of `messages` or `received`."""
    if not row_ids:
        return
    conn.execute(
        f"UPDATE {table} SET {BLANK} WHERE id IN (SELECT value FROM json_each(?)) AND kept",
        (json.dumps(list(row_ids)),),
    )


def change(
    conn: sqlite3.Connection, actor: Actor, customer: Customer, texts: str, *, remove_stored: bool = False
) -> None:
    """Set what becomes of a customer's texts from now on.

    Args:
        texts: of CHOICES. With NONE it is that of messages which end, and receipts which are accepted, from now on.
        remove_stored: only with NONE: the texts that are stored go as well, step by step (`text_removal`). What has not
            been removed before something else is chosen stays.

    Raises:
        InvalidTexts, StoredTextsStay
    """
    if texts not in CHOICES:
        raise InvalidTexts(value=texts)
    if remove_stored and texts != NONE:
        raise StoredTextsStay()
    with immediate(conn):
        (before,) = conn.execute("SELECT texts FROM customers WHERE id = ?", (customer.id,)).fetchone()
        if texts == before and not remove_stored:
            return
        conn.execute("UPDATE customers SET texts = ? WHERE id = ?", (texts, customer.id))
        for row in conn.execute("SELECT id FROM accounts WHERE customer_id = ?", (customer.id,)).fetchall():
            conn.execute("DELETE FROM text_removals WHERE account_id = ?", (row[0],))
            if texts == NONE:
                _begin_removal(conn, row[0], remove_stored)
        audit.record(conn, actor, "customer.change", customer_id=customer.id, texts=texts, texts_removed=remove_stored)


def _begin_removal(conn: sqlite3.Connection, account_id: int, stored_too: bool) -> None:
    if stored_too:
        # What is left of messages that were deleted.
        conn.execute("UPDATE blacklist SET said = NULL WHERE account_id = ? AND said IS NOT NULL", (account_id,))
    # Chunks may know words of texts that are needed still, and will go: from the oldest of these on they forget them.
    (oldest, newest) = conn.execute(
        "SELECT min("
        f" coalesce((SELECT min(id) FROM messages INDEXED BY messages_unfinished WHERE state = {ENROUTE}"
        "  AND account_id = :account), 1 << 62),"
        " coalesce((SELECT min(message_id) FROM deliveries WHERE account_id = :account), 1 << 62)),"
        " (SELECT max(id) FROM messages WHERE account_id = :account)",
        {"account": account_id},
    ).fetchone()
    conn.execute(
        "INSERT INTO text_removals (account_id, texts, after_id, last_id, received_after_id) VALUES (?, ?, ?, ?, 0)",
        (account_id, int(stored_too), 0 if stored_too else oldest - 1, newest or 0),
    )


def removing(conn: sqlite3.Connection, customer_id: int) -> bool:
    """Whether texts of a customer that were stored before are still being removed."""
    (found,) = conn.execute(
        "SELECT EXISTS (SELECT 1 FROM text_removals WHERE texts"
        " AND account_id IN (SELECT id FROM accounts WHERE customer_id = ?))",
        (customer_id,),
    ).fetchone()
    return bool(found)
