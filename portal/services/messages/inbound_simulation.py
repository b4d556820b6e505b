"""Messages from handsets (MO) that the command line simulates; they come as an upstream brings others."""

import sqlite3

from portal.core import gsm0338
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.common.errors import Refused
from portal.services.messages import blacklist, inbound_numbers
from portal.services.messages.inbound import InboundRecipients, MobileOriginatedMessage, find_recipient_accounts
from portal.services.messages.validation import MAX_PARTS

SIMULATED_BATCH_SIZE = 500


class NumberNotAssigned(Refused, field="number"):
    sentence = N_("What is sent to %(number)s reaches no account. Give it to one: number add ACCOUNT %(number)s")


class KeywordNotAssigned(Refused, field="text"):
    sentence = N_("What is sent to %(number)s reaches an account only if it begins with one of: %(keywords)s")


class InvalidInboundText(Refused, field="text"):
    sentence = N_("No handset can send this text: it is too long, or it isn't Unicode.")


def simulate_inbound_message(conn: sqlite3.Connection, source: str, destination: str, text: str) -> InboundRecipients:
    """Let the SMPP server receive a text as if a handset had sent it; when it doesn't run, at its next start.

    Args:
        source: the handset's number, as typed, with or without a plus.
        destination: the number or short code that the text is sent to, as typed.

    Returns:
        The accounts that it is for now.

    Raises:
        blacklist.InvalidHandsetNumber, NumberNotAssigned, KeywordNotAssigned, InvalidInboundText
    """
    source = blacklist.normalize_phone_number(source)
    destination = inbound_numbers.normalize_inbound_number(destination)
    try:
        encoding = gsm0338.choose_encoding(text)
        too_long = gsm0338.count_parts(gsm0338.encode_body(text, encoding), encoding) > MAX_PARTS
    except UnicodeEncodeError:
        raise InvalidInboundText() from None
    if too_long:
        raise InvalidInboundText()
    with write_transaction(conn):
        matched = find_recipient_accounts(conn, destination, text)
        if not matched.account_ids:
            keywords = inbound_numbers.get_accounts_by_keyword(conn, destination)
            if keywords:
                raise KeywordNotAssigned(number=destination, keywords=", ".join(sorted(keywords)))
            raise NumberNotAssigned(number=destination)
        insert_row(conn, "simulated", source=source, destination=destination, text=text)
    return matched


def list_simulated_messages(conn: sqlite3.Connection, after_id: int) -> list[MobileOriginatedMessage]:
    """Simulated messages above an id that have not been stored yet; at most SIMULATED_BATCH_SIZE."""
    rows = conn.execute(
        "SELECT source, destination, text, id FROM simulated WHERE id > ? ORDER BY id LIMIT ?",
        (after_id, SIMULATED_BATCH_SIZE),
    ).fetchall()
    return [
        MobileOriginatedMessage(source, destination, text, gsm0338.choose_encoding(text), simulated_id=row_id)
        for source, destination, text, row_id in rows
    ]
