"""What tests of several areas do with messages."""

from collections.abc import Sequence

from portal.core.db import Connection
from portal.services.messages import intake, query_cancel
from portal.services.messages.validation import SubmittedMessage


def store_messages(conn: Connection, submits: Sequence[SubmittedMessage], now: int | None = None) -> list[int]:
    """Store messages that the credits cover; returns their ids."""
    message_ids = [each for each in intake.store_messages(conn, submits, now).message_ids if each is not None]
    assert len(message_ids) == len(submits), "there are not enough credits"
    return message_ids


def cancel_message(conn: Connection, account_id: int, message_id: int) -> None:
    """Cancel a message as its client does."""
    message = query_cancel.find_message_status(conn, account_id, message_id)
    assert message is not None
    query_cancel.cancel_messages(conn, [message])
