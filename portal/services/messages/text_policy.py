"""The policy for the texts of a customer's messages: shown to everybody, hidden from viewers, or not kept.

A text that isn't kept is removed in the transaction after which it is no longer needed: the one that ends its message,
or the one that ends the delivery of its receipt, because a receipt quotes the text. So no text is left behind, however
a process ends. Parts and price stay.
"""

import json
import sqlite3
from collections.abc import Collection

from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.accounts.account_messages import LATEST_MESSAGE_ID_SQL
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.common.message_states import ENROUTE
from portal.services.people import users
from portal.services.people.customers import Customer

SHOWN, HIDDEN, NONE = "shown", "hidden", "none"
CHOICES = (SHOWN, HIDDEN, NONE)

TEXT_NOT_KEPT, TEXT_HIDDEN = N_("Text not kept"), N_("Text hidden")
"""What is shown instead of a text that was removed, or that the reader may not see; keys of the translations."""

BLANK_TEXT_SQL = "text = '', body = NULL, udh = NULL, kept = 0"
"""The SET clause of an UPDATE of `messages` or `received` that removes a text, with binary content and header."""

HAS_DISCARDING_CUSTOMERS_SQL = f"EXISTS (SELECT 1 FROM customers WHERE texts = '{NONE}')"
"""SQL for `has_text_discarding_customers`."""


class InvalidTextPolicy(Refused, field="texts"):
    sentence = N_("“%(value)s” isn't among what can become of texts: shown, hidden, none.")


class CannotRemoveStoredTexts(Refused, field="remove_stored"):
    sentence = N_("Stored texts are removed only where texts are not kept.")


def may_read_texts(policy: str, role: str) -> bool:
    """Whether a user with this role may read the texts of a customer with this policy.

    With NONE that concerns texts that have not been removed yet.
    """
    return policy == SHOWN or role != users.VIEWER


def get_text_placeholder(kept: int | None, hidden: bool) -> str:
    """What is shown instead of a text, in English; empty: the text itself."""
    if not kept:
        return TEXT_NOT_KEPT
    return TEXT_HIDDEN if hidden else ""


def find_accounts_discarding_texts(conn: sqlite3.Connection, account_ids: Collection[int]) -> set[int]:
    """Return those of these accounts whose texts aren't kept. Cheap where no customer has that policy."""
    if not has_text_discarding_customers(conn):
        return set()
    # In one row: Python releases the GIL for each row.
    (account_ids_json,) = conn.execute(
        "SELECT json_group_array(accounts.id) FROM json_each(?) CROSS JOIN accounts ON accounts.id = value"
        f" CROSS JOIN customers ON customers.id = customer_id WHERE texts = '{NONE}'",
        (json.dumps(list(account_ids)),),
    ).fetchone()
    return set(json.loads(account_ids_json))


def has_text_discarding_customers(conn: sqlite3.Connection) -> bool:
    """Whether any customer's texts aren't kept."""
    (exists,) = conn.execute(f"SELECT {HAS_DISCARDING_CUSTOMERS_SQL}").fetchone()
    return bool(exists)


def blank_texts(conn: sqlite3.Connection, table: str, row_ids: Collection[int | None]) -> None:
    """Remove the texts of these rows of `messages` or `received`."""
    if not row_ids:
        return
    conn.execute(
        f"UPDATE {table} SET {BLANK_TEXT_SQL} WHERE id IN (SELECT value FROM json_each(?)) AND kept",
        (json.dumps(list(row_ids)),),
    )


def change_text_policy(
    conn: sqlite3.Connection, actor: Actor, customer: Customer, policy: str, *, remove_stored: bool = False
) -> None:
    """Change what happens to a customer's texts from now on.

    Args:
        policy: one of CHOICES. NONE applies to messages that end, and to receipts that are accepted, from now on.
        remove_stored: only with NONE: stored texts are removed as well, step by step (`history/removal.py`). Those
            that have not been removed before the policy is changed again stay.

    Raises:
        InvalidTextPolicy, CannotRemoveStoredTexts
    """
    if policy not in CHOICES:
        raise InvalidTextPolicy(value=policy)
    if remove_stored and policy != NONE:
        raise CannotRemoveStoredTexts()
    with write_transaction(conn):
        (old_policy,) = conn.execute("SELECT texts FROM customers WHERE id = ?", (customer.id,)).fetchone()
        if policy == old_policy and not remove_stored:
            return
        conn.execute("UPDATE customers SET texts = ? WHERE id = ?", (policy, customer.id))
        for row in conn.execute("SELECT id FROM accounts WHERE customer_id = ?", (customer.id,)).fetchall():
            conn.execute("DELETE FROM text_removals WHERE account_id = ?", (row[0],))
            if policy == NONE:
                _start_text_removal(conn, row[0], remove_stored)
        audit.record_action(
            conn, actor, "customer.change", customer_id=customer.id, texts=policy, texts_removed=remove_stored
        )


def _start_text_removal(conn: sqlite3.Connection, account_id: int, remove_stored: bool) -> None:
    if remove_stored:
        # Texts of STOP messages that were deleted.
        conn.execute("UPDATE blacklist SET said = NULL WHERE account_id = ? AND said IS NOT NULL", (account_id,))
    # The search index may contain words of texts that are still needed and will be removed later. So from the oldest
    # of these messages on, words are removed from the index.
    (oldest, newest) = conn.execute(
        "SELECT min("
        f" coalesce((SELECT min(id) FROM messages INDEXED BY messages_unfinished WHERE state = {ENROUTE}"
        "  AND account_id = :account), 1 << 62),"
        " coalesce((SELECT min(message_id) FROM deliveries WHERE account_id = :account), 1 << 62)),"
        f" {LATEST_MESSAGE_ID_SQL}",
        {"account": account_id},
    ).fetchone()
    conn.execute(
        "INSERT INTO text_removals (account_id, texts, after_id, last_id, received_after_id) VALUES (?, ?, ?, ?, 0)",
        (account_id, int(remove_stored), 0 if remove_stored else oldest - 1, newest or 0),
    )


def is_removing_texts(conn: sqlite3.Connection, customer_id: int) -> bool:
    """Whether stored texts of a customer are still being removed."""
    (exists,) = conn.execute(
        "SELECT EXISTS (SELECT 1 FROM text_removals WHERE texts"
        " AND account_id IN (SELECT id FROM accounts WHERE customer_id = ?))",
        (customer_id,),
    ).fetchone()
    return bool(exists)
