"""Checks of the parts of texts that were cut: against their messages, and with one another."""

from portal.core.i18n import N_
from portal.services.common.message_states import DELIVERED, ENROUTE

# Grouped by nothing in particular, so that no row comes where nothing is found.
_IF_ANY = " GROUP BY NULL"
_CUT_MESSAGES = "SELECT min(id) AS row, count(*) AS count FROM cut_messages AS c JOIN messages ON id = message_id WHERE"
CHECKS = (
    (
        N_("cut_messages: rows that are of no message: %(count)s, the first is row %(row)s"),
        "SELECT min(message_id) AS row, count(*) AS count FROM cut_messages"
        f" WHERE message_id NOT IN (SELECT id FROM messages){_IF_ANY}",
    ),
    (
        N_("message_parts: parts that are of no text that was cut: %(count)s, the first is of messages row %(row)s"),
        "SELECT min(p.message_id) AS row, count(*) AS count FROM message_parts AS p"
        " LEFT JOIN cut_messages AS c USING (message_id)"
        f" WHERE total IS NULL OR number NOT BETWEEN 1 AND total{_IF_ANY}",
    ),
    (
        N_("messages that have ended, and not all of whose parts have: %(count)s, the first is messages row %(row)s"),
        f"{_CUT_MESSAGES} messages.state <> {ENROUTE} AND total > (SELECT count(*) FROM message_parts AS p"
        f"  WHERE p.message_id = c.message_id AND p.state <> {ENROUTE}){_IF_ANY}",
    ),
    (
        N_("messages all of whose parts have ended, and that have not: %(count)s, the first is messages row %(row)s"),
        f"{_CUT_MESSAGES} messages.state = {ENROUTE} AND total = (SELECT count(*) FROM message_parts AS p"
        f"  WHERE p.message_id = c.message_id AND p.state <> {ENROUTE}){_IF_ANY}",
    ),
    (
        N_(
            "messages that are delivered and have a part that isn't, or the other way round: %(count)s, the first is"
            " messages row %(row)s"
        ),
        f"{_CUT_MESSAGES} messages.state <> {ENROUTE} AND (messages.state = {DELIVERED}) <> (total = (SELECT count(*)"
        f"  FROM message_parts AS p WHERE p.message_id = c.message_id AND p.state = {DELIVERED})){_IF_ANY}",
    ),
)
"""A text that was cut is there, with its parts, and has ended as these have."""
