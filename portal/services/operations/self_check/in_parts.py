"""Checks of the parts of texts that were cut: against their messages, and with one another."""

import sqlite3
from collections.abc import Iterator

from portal.core.i18n import N_
from portal.services.common.message_states import DELIVERED, ENROUTE
from portal.services.operations.self_check.problem import Problem, find_by_queries

_CUT_MESSAGES = "SELECT min(id) AS row, count(*) AS count FROM cut_messages AS c JOIN messages ON id = message_id WHERE"
_CHECKS = (
    (
        N_("cut_messages: rows that are of no message: %(count)s, the first is row %(row)s"),
        "SELECT min(message_id) AS row, count(*) AS count FROM cut_messages"
        " WHERE message_id NOT IN (SELECT id FROM messages)",
    ),
    (
        N_("message_parts: parts that are of no text that was cut: %(count)s, the first is of messages row %(row)s"),
        "SELECT min(p.message_id) AS row, count(*) AS count FROM message_parts AS p"
        " LEFT JOIN cut_messages AS c USING (message_id) WHERE total IS NULL OR number NOT BETWEEN 1 AND total",
    ),
    (
        N_("messages that have ended, and not all of whose parts have: %(count)s, the first is messages row %(row)s"),
        f"{_CUT_MESSAGES} messages.state <> {ENROUTE} AND total > (SELECT count(*) FROM message_parts AS p"
        f"  WHERE p.message_id = c.message_id AND p.state <> {ENROUTE})",
    ),
    (
        N_("messages all of whose parts have ended, and that have not: %(count)s, the first is messages row %(row)s"),
        f"{_CUT_MESSAGES} messages.state = {ENROUTE} AND total = (SELECT count(*) FROM message_parts AS p"
        f"  WHERE p.message_id = c.message_id AND p.state <> {ENROUTE})",
    ),
    (
        N_(
            "messages that are delivered and have a part that isn't, or the other way round: %(count)s, the first is"
            " messages row %(row)s"
        ),
        f"{_CUT_MESSAGES} messages.state <> {ENROUTE} AND (messages.state = {DELIVERED}) <> (total = (SELECT count(*)"
        f"  FROM message_parts AS p WHERE p.message_id = c.message_id AND p.state = {DELIVERED}))",
    ),
)


def check_parts(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that a text that was cut is there, with its parts, and that it has ended as these have."""
    return (each for each in find_by_queries(conn, _CHECKS) if each.params["count"])
