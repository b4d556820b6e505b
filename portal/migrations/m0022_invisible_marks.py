"""Names and addresses without the marks that nobody sees, which are left out of what is typed since then.

With such a mark nobody would find them any more, nor log in. One that would then be another's stays as it is.
"""

import re

from sqlite_utils import Database

from portal.migrations.sql import execute_statements

_MARKS = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
_JOINERS = re.compile("[\u200c\u200d]+")

_STATEMENTS = """
UPDATE OR IGNORE users SET email = without_marks(email) WHERE email <> without_marks(email);
UPDATE OR IGNORE customers SET name = without_marks(name) WHERE name <> without_marks(name);
UPDATE customers SET contact_email = without_marks(contact_email) WHERE contact_email <> without_marks(contact_email);
UPDATE accounts SET alert_to = without_marks(alert_to) WHERE alert_to <> without_marks(alert_to);
"""


def m0022_invisible_marks(database: Database) -> None:
    database.conn.create_function("without_marks", 1, _remove_marks)
    execute_statements(database, _STATEMENTS)


def _remove_marks(text: str) -> str:
    # No-break spaces become spaces, too. What is nothing but marks stays.
    return " ".join(_JOINERS.sub(_replace_joiners, _MARKS.sub("", text)).split()) or text


def _replace_joiners(joiners: re.Match[str]) -> str:
    # Between letters of scripts such as Persian, and in emoji, joiners have a meaning; beside ASCII they have none.
    text = joiners.string
    neighbours = text[max(joiners.start() - 1, 0) : joiners.start()], text[joiners.end() : joiners.end() + 1]
    return "" if any(each.isascii() for each in neighbours) else joiners[0]
