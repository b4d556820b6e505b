"""Checks of upstreams: their settings, their passwords, the routes that lead to them, and what waits for them."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import replace

from portal.core.clock import DAY_MS
from portal.core.crypto import Keys
from portal.core.i18n import N_
from portal.services.common import ids
from portal.services.common.errors import Refused
from portal.services.common.message_states import ENROUTE
from portal.services.operations import database_key
from portal.services.operations.self_check.problem import Check, Problem, find_by_queries, iterate_rows
from portal.services.routing.quiet_hours import parse_quiet_hours
from portal.services.statistics import months
from portal.services.statistics.daily_totals import build_month_sql
from portal.services.upstreams import upstreams
from portal.services.upstreams.paths import UNDER_WAY
from portal.services.upstreams.setting_checks import InvalidUpstreamSetting
from portal.services.upstreams.settings import DEFAULTS, FILE_SETTINGS, check_settings_together, parse_setting

_SELECT_UPSTREAMS = "SELECT name AS upstream, id AS row, kind FROM upstreams WHERE removed_at IS"
_UPSTREAM_CHECKS = (
    Check(
        "%(upstream)s: upstreams row %(row)s was removed, and is still in use",
        f"{_SELECT_UPSTREAMS} NOT NULL AND (password IS NOT NULL OR enabled OR is_default)",
    ),
    Check(
        "%(upstream)s: upstreams row %(row)s is of the kind %(kind)s, which there isn't",
        f"{_SELECT_UPSTREAMS} NULL AND kind NOT IN ('{upstreams.SMPP}', '{upstreams.SIMULATOR}')",
    ),
    Check(
        "%(upstream)s: upstreams row %(row)s has a password too much or too little",
        f"{_SELECT_UPSTREAMS} NULL AND (password IS NOT NULL) <> (kind = '{upstreams.SMPP}')",
    ),
)


def check_upstreams(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that each has possible settings and what its kind needs."""
    yield from find_by_queries(conn, _UPSTREAM_CHECKS)
    rows = iterate_rows(conn, "SELECT id, name, kind, settings FROM upstreams WHERE removed_at IS NULL")
    for row, name, kind, settings in rows:
        yield from _check_settings(kind, json.loads(settings), {"upstream": name, "row": row})


def _check_settings(kind: str, settings: Mapping[str, object], params: Mapping[str, str | int]) -> Iterator[Problem]:
    values = {}
    for name, value in settings.items():
        try:
            # A file that has gone is the connection's matter: this may be another machine.
            if name not in FILE_SETTINGS:
                values[name] = parse_setting(name, value)
        except (KeyError, InvalidUpstreamSetting):
            sentence = N_("%(upstream)s: upstreams row %(row)s has %(setting)s set to %(value)s, which it can't be")
            yield Problem(sentence, {**params, "setting": name, "value": json.dumps(value)})
    if kind == upstreams.SMPP:
        try:
            check_settings_together(replace(DEFAULTS, **values))  # type: ignore[arg-type]
        except Refused as refusal:
            sentence = N_("%(upstream)s: upstreams row %(row)s has settings that don't go together: %(reason)s")
            yield Problem(sentence, {**params, "reason": str(refusal)})


# First by day: what makes a month of that takes long.
_UNCOUNTED_USAGE_QUERY = f"""
SELECT route, country, month FROM (
    SELECT route, country, {build_month_sql("day")} AS month, sum(messages) AS messages FROM (
        SELECT route, country, {ids.build_time_sql("id")} / {DAY_MS} AS day, count(*) AS messages
        FROM messages WHERE route IS NOT NULL GROUP BY 1, 2, 3
    ) GROUP BY 1, 2, 3
) AS found WHERE messages > coalesce((
    SELECT messages FROM route_usage AS u
    WHERE u.month = found.month AND u.route_id = found.route AND u.country = found.country
), 0) ORDER BY 3, 1, 2
"""


def check_routes(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that each leads to upstreams that are there, and has quiet hours that can be; and that what went by each is
    counted. What customers have deleted is counted still.
    """
    present_ids = {row for (row,) in iterate_rows(conn, "SELECT id FROM upstreams WHERE removed_at IS NULL")}
    for row, stored in iterate_rows(conn, "SELECT id, upstreams FROM routes"):
        chosen = json.loads(stored)
        if not chosen or not all(each.keys() == {"id", "weight"} and each["id"] in present_ids for each in chosen):
            yield Problem(
                N_("routes row %(row)s leads to no upstream, or to one that there isn't: %(upstreams)s"),
                {"row": row, "upstreams": stored},
            )
    for row, stored in iterate_rows(conn, "SELECT id, quiet_hours FROM routes WHERE quiet_hours IS NOT NULL"):
        try:
            parse_quiet_hours(stored)
        except Refused:
            sentence = N_("routes row %(row)s has quiet hours that can't be: %(hours)s")
            yield Problem(sentence, {"row": row, "hours": stored})
    for route_id, country, month in iterate_rows(conn, _UNCOUNTED_USAGE_QUERY):
        yield Problem(
            N_(
                "route_usage has fewer messages of %(month)s, route %(route)s and country %(country)s than messages has"
            ),
            {"month": months.format_month(month), "route": route_id, "country": country},
        )


def check_passwords(conn: sqlite3.Connection, keys: Keys) -> Iterator[Problem]:
    """Check that the passwords can be read: those of before a lost key can't."""
    for name, password in iterate_rows(conn, "SELECT name, password FROM upstreams WHERE password IS NOT NULL"):
        if not database_key.can_open_secret(keys, password):
            yield Problem(
                N_("%(upstream)s: its password was sealed under another secret.key; enter it anew"), {"upstream": name}
            )


# Each statement finds rows of an account: its id, the first message of them, how many there are. The rows of the two
# tables are looked up in `messages` one by one; none of them is sorted.
_SELECT = "SELECT waiting.account_id AS account, min(message_id) AS row, count(*) AS count FROM"
_NOT_ITS_OWN = (
    " LEFT JOIN messages ON id = message_id WHERE id IS NULL OR messages.account_id <> waiting.account_id"
    f" OR state <> {ENROUTE} GROUP BY waiting.account_id"
)
WAITING_CHECKS = (
    Check(
        "%(account)s: rows of queued_messages that are of none of its messages under way: %(count)s, the first"
        " names messages row %(row)s",
        f"{_SELECT} queued_messages AS waiting{_NOT_ITS_OWN}",
    ),
    Check(
        "%(account)s: rows of held_messages that are of none of its messages under way: %(count)s, the first names"
        " messages row %(row)s",
        f"{_SELECT} held_messages AS waiting{_NOT_ITS_OWN}",
    ),
    Check(
        "%(account)s: messages that wait in queued_messages, and that an upstream has: %(count)s, the first is"
        " messages row %(row)s",
        f"{_SELECT} queued_messages AS waiting JOIN messages ON id = message_id"
        " WHERE upstream IS NOT NULL GROUP BY waiting.account_id",
    ),
    Check(
        "%(account)s: messages that are in queued_messages and in held_messages: %(count)s, the first is messages"
        " row %(row)s",
        f"{_SELECT} held_messages AS waiting"
        " WHERE message_id IN (SELECT message_id FROM queued_messages) GROUP BY account_id",
    ),
    Check(
        "%(account)s: messages that wait on more than one path in queued_messages: %(count)s, the first is messages"
        " row %(row)s",
        # Twice on one path would be one row.
        f"{_SELECT} (SELECT min(account_id) AS account_id, message_id"
        " FROM queued_messages WHERE EXISTS (SELECT 1 FROM queue_paths WHERE id <> 0)"
        " GROUP BY message_id HAVING count(*) > 1) AS waiting GROUP BY waiting.account_id",
    ),
    Check(
        "%(account)s: messages that wait on a path which there isn't: %(count)s, the first is messages row %(row)s",
        f"{_SELECT}"
        " (SELECT path, account_id, message_id FROM queued_messages"
        "  UNION ALL SELECT path, account_id, message_id FROM held_messages) AS waiting"
        " WHERE path NOT IN (SELECT id FROM queue_paths) GROUP BY account_id",
    ),
    Check(
        "%(account)s: messages that wait for an upstream which was removed: %(count)s, the first is messages row"
        " %(row)s",
        f"{_SELECT}"
        " (SELECT path, account_id, message_id FROM queued_messages"
        "  UNION ALL SELECT path, account_id, message_id FROM held_messages) AS waiting WHERE path IN"
        # It waits for that one alone, and operators don't hold it.
        " (SELECT queue_paths.id FROM queue_paths JOIN upstreams ON upstreams.id = first_upstream"
        "  WHERE removed_at IS NOT NULL AND upstream_ids NOT GLOB '-*' AND upstream_ids NOT GLOB '*,[1-9]*')"
        " GROUP BY account_id",
    ),
    Check(
        "%(account)s: destinations in held_messages to which nothing is tried again: %(count)s, the first message"
        " to one of them is messages row %(row)s",
        # The first that was tried has a time for that, or an upstream has one at this moment; the others wait for it.
        f"{_SELECT} (SELECT held.account_id, min(message_id) AS message_id"
        " FROM held_messages AS held JOIN messages ON id = message_id"
        " GROUP BY held.account_id, held.destination"
        " HAVING NOT max(upstream IS NOT NULL) AND coalesce(min(iif(attempts > 0, message_id, NULL)), 0)"
        f" <> coalesce(min(iif(not_before < {UNDER_WAY}, message_id, NULL)), -1)) AS waiting"
        " GROUP BY waiting.account_id",
    ),
    Check(
        "%(account)s: messages that no upstream has, and that wait for none: %(count)s, the first is messages row"
        " %(row)s",
        "SELECT account_id AS account, min(id) AS row, count(*) AS count FROM messages INDEXED BY messages_unfinished"
        f" WHERE state = {ENROUTE} AND upstream IS NULL AND (scheduled_at IS NULL OR due_at IS NOT scheduled_at)"
        # Until there is an upstream all are the built-in simulator's, and then those up to this one; 0: the SMPP server
        # hasn't seen yet that there are upstreams.
        " AND EXISTS (SELECT 1 FROM upstreams)"
        " AND id > (SELECT nullif(value, 0) FROM counters WHERE name = 'last_simulated_message')"
        " AND id NOT IN (SELECT message_id FROM queued_messages UNION ALL SELECT message_id FROM held_messages)"
        " GROUP BY account_id",
    ),
)
"""What waits for an upstream are messages under way, each in one place, and nothing else is forgotten: what no upstream
has, waits.
"""
