"""Upstreams: operators' connections to carriers. What is changed here holds at once, in a running server too."""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag

from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, require_found
from portal.services.common.message_states import ENROUTE
from portal.services.upstreams import health, paths, queue, unclaimed, waiting_counts
from portal.services.upstreams.message_ids import UNANSWERED_SQL, build_key_sql
from portal.services.upstreams.paths import (
    SIMULATED_BIND,
    UpstreamPath,
    choose_taker,
    get_path_upstreams,
    is_held_path,
)
from portal.services.upstreams.settings import (
    RULES,
    NoSettingOfSimulator,
    UpstreamSettings,
    list_changed_settings,
    merge_settings,
    parse_settings,
    reaches_others,
)

SMPP, SIMULATOR = KINDS = ("smpp", queue.SIMULATOR)

# Names stand in addresses of pages, and with commas between them in commands.
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,29}")
# Those that say by which id a receipt finds its message.
_ID_SETTINGS = ("message_ids", "receipt_id_from", "receipt_id_pattern")
# A cookie has no room for thousands.
_MAX_TOLD_ROUTES = 20
# SMPP 3.4, 4.1.1: a C-octet string of at most 9 octets with its NUL.
MAX_PASSWORD_LENGTH = 8


class NoSuchUpstream(NotFound, field="upstream"):
    sentence = N_("There is no upstream “%(name)s”.")


class UpstreamExists(Refused, field="name"):
    sentence = N_("There is already an upstream “%(name)s”: change that one, or give another name.")


class UpstreamChanged(Refused):
    sentence = N_(
        "“%(name)s” was changed by somebody else while this form was open, so nothing has been saved. What is different"
        " there now stands below: send it again to have what is in the form."
    )


class InvalidUpstreamName(Refused, field="name"):
    sentence = N_(
        "“%(name)s” can't be an upstream's name: it begins with a letter or a digit, goes on with letters, digits,"
        " dots, hyphens and underscores, and has at most 30 characters."
    )


class InvalidUpstreamKind(Refused, field="kind"):
    sentence = N_("“%(kind)s” isn't a kind of upstream: %(kinds)s.")


class InvalidUpstreamPassword(Refused, field="password"):
    # The sentence doesn't repeat it.
    sentence = N_("An upstream's password has 1 to %(limit)s characters, each of which is printable ASCII (SMPP 3.4).")


class UpstreamPasswordUnreadable(Refused, field="password"):
    sentence = N_("The password of “%(name)s” was sealed under another secret.key: enter it anew.")


class UpstreamPasswordNeeded(Refused, field="password"):
    sentence = N_(
        "The password that is stored goes only where it was entered for: enter it again for another host or port, or"
        " for other settings of TLS."
    )


class MessagesWaitForUpstream(Refused):
    sentence = N_(
        "Messages wait for “%(name)s”, or are under way to it: %(count)s. Make another upstream the default one for"
        " those that wait; drain this one, and remove it once it has answered the others."
    )


class MessagesAreBeingMoved(MessagesWaitForUpstream):
    sentence = N_("Messages are being moved to “%(name)s”. Remove it once that is done, and it has sent them.")


class DefaultUpstreamInUse(Refused):
    sentence = N_("“%(name)s” is the default upstream. Make another one the default first.")


class UpstreamInRoutes(Refused):
    sentence = N_(
        "Routes lead to “%(name)s”: %(routes)s. Change them first so that they do without it, or remove them."
    )


@dataclass(frozen=True, slots=True)
class Upstream:
    """An upstream. `version` grows with each change, one of the password included.

    What is `draining` gets no messages; what is under way is still answered, and its receipts still come.
    """

    id: int
    name: str
    kind: str
    enabled: bool
    draining: bool
    is_default: bool
    settings: UpstreamSettings
    version: int


_SELECT = (
    "SELECT id, name, kind, enabled, draining, is_default, settings, version FROM upstreams WHERE removed_at IS NULL"
)


def _upstream_from_row(row: sqlite3.Row) -> Upstream:
    values = dict(row)
    for name in ("enabled", "draining", "is_default"):
        values[name] = bool(values[name])
    # A setting that is no more is passed over: what was stored by an older version can still be read.
    stored = json.loads(values["settings"])
    values["settings"] = UpstreamSettings(**{name: value for name, value in stored.items() if name in RULES})
    return Upstream(**values)


def list_upstreams(conn: sqlite3.Connection) -> list[Upstream]:
    """All that there are, by name.

    The SMPP server reads them when `smpp_config.read_config_version` has grown: what is no longer among them was
    removed, and what has another `version` was changed.
    """
    return [_upstream_from_row(row) for row in conn.execute(f"{_SELECT} ORDER BY name")]


def get_upstream(conn: sqlite3.Connection, name: str) -> Upstream:
    """Raises: NoSuchUpstream"""
    return _get_upstream(conn, "name", name)


def get_upstream_by_id(conn: sqlite3.Connection, upstream_id: int) -> Upstream:
    """Raises: NoSuchUpstream"""
    return _get_upstream(conn, "id", upstream_id)


def _get_upstream(conn: sqlite3.Connection, column: str, value: object) -> Upstream:
    row = conn.execute(f"{_SELECT} AND {column} = ?", (value,)).fetchone()
    return _upstream_from_row(require_found(row, NoSuchUpstream(name=value)))


def get_stored_settings(conn: sqlite3.Connection, upstream_id: int) -> UpstreamSettings:
    """The settings of an upstream, also of one that was removed."""
    row = conn.execute(_SELECT.partition(" WHERE ")[0] + " WHERE id = ?", (upstream_id,)).fetchone()
    return _upstream_from_row(row).settings


def get_upstream_names(conn: sqlite3.Connection) -> dict[int, str]:
    """The names by id, also of upstreams that were removed: messages go on naming them."""
    return {row["id"]: row["name"] for row in conn.execute("SELECT id, name FROM upstreams")}


def count_waiting_messages(
    conn: sqlite3.Connection, counts_by_path: Mapping[UpstreamPath, int] | None = None
) -> dict[int, int]:
    """How many messages wait for each upstream, by its id: those on the paths that it takes now. Those for which none
    does are left out, and those that operators hold.

    Args:
        counts_by_path: what `waiting_counts.count_waiting_messages_by_path` returns, which takes most of the time;
            None: what `waiting_counts.read_path_counts` does.
    """
    if counts_by_path is None:
        counts_by_path = waiting_counts.read_path_counts(conn)
    if not counts_by_path:
        return {}
    counts: Counter[int] = Counter()
    for path, taker in find_takers(conn, counts_by_path).items():
        if taker is not None and not is_held_path(path):
            counts[taker] += counts_by_path[path]
    return dict(counts)


def find_takers(conn: sqlite3.Connection, waiting_paths: Collection[UpstreamPath]) -> dict[UpstreamPath, int | None]:
    """Which upstream takes what waits on each of these paths at this moment, or would take it if operators didn't hold
    it; where none takes it, it waits for the first. None: there is none.
    """
    listed = list_upstreams(conn)
    default_path = tuple(each.id for each in listed if each.is_default)
    known = health.list_health(conn)
    states = {
        each.id: known[each.id].state if each.id in known else health.GOOD
        for each in listed
        if each.enabled and not each.draining
    }
    takers: dict[UpstreamPath, int | None] = {}
    for path in waiting_paths:
        order = get_path_upstreams(path) or default_path
        takers[path] = choose_taker(order, states) or next(iter(order), None)
    return takers


_COUNT_UNDER_WAY = {
    SMPP: f"SELECT count(*) FROM messages INDEXED BY messages_upstream WHERE state = {ENROUTE} AND upstream = ?"
    f" AND {UNANSWERED_SQL} AND bind IS NOT {SIMULATED_BIND}",
    SIMULATOR: f"SELECT count(*) FROM messages INDEXED BY messages_unfinished WHERE state = {ENROUTE} AND upstream = ?"
    f" AND bind IS {SIMULATED_BIND}",
}


def count_messages_under_way(conn: sqlite3.Connection, upstream: Upstream) -> int:
    """How many messages an upstream has, or is just being given, that it has not answered. For a simulator all that has
    not ended is looked through: a second or two for a million.
    """
    return int(conn.execute(_COUNT_UNDER_WAY[upstream.kind], (upstream.id,)).fetchone()[0])


def count_unreported_messages(conn: sqlite3.Connection, upstream: Upstream) -> int:
    """How many messages an upstream has accepted, and given an id, whose final receipts have not come. Those of all
    upstreams are looked through: some tenths of a second for a million.
    """
    key = build_key_sql("upstream_id")
    (count,) = conn.execute(
        f"SELECT (SELECT count(*) FROM messages INDEXED BY messages_upstream WHERE state = {ENROUTE} AND upstream = ?1"
        f" AND {key} IS NOT NULL AND upstream_id IS NOT '' AND bind IS NOT {SIMULATED_BIND})"
        # Of a text that was cut each part has its own. One of which parts are still to be sent waits for others.
        f" + (SELECT count(DISTINCT message_id) FROM message_parts AS p INDEXED BY message_parts_upstream"
        f" WHERE state = {ENROUTE} AND upstream = ?1 AND {key} IS NOT NULL AND upstream_id IS NOT ''"
        "  AND (SELECT upstream_id FROM messages WHERE id = p.message_id) IS NOT NULL)",
        (upstream.id,),
    ).fetchone()
    return int(count)


def has_ever_had_upstream(conn: sqlite3.Connection) -> bool:
    """Whether there is or was any upstream. Until then messages end in the built-in simulator; afterwards never."""
    return conn.execute("SELECT 1 FROM upstreams LIMIT 1").fetchone() is not None


def get_upstream_password(conn: sqlite3.Connection, keys: Keys, upstream: Upstream) -> str:
    """The password that it binds with; empty for a simulator.

    Raises:
        UpstreamPasswordUnreadable: it was sealed under another key.
    """
    row = conn.execute("SELECT password FROM upstreams WHERE id = ?", (upstream.id,)).fetchone()
    if row is None or row["password"] is None:
        return ""
    try:
        return keys.decrypt_column(row["password"]).decode()
    except InvalidTag:
        raise UpstreamPasswordUnreadable(name=upstream.name) from None


def create_upstream(
    conn: sqlite3.Connection,
    keys: Keys,
    actor: Actor,
    name: str,
    *,
    kind: str = SMPP,
    password: str = "",
    **settings: object,
) -> Upstream:
    """Create an upstream, enabled. Where there is no other, it becomes the default one.

    Args:
        kind: one of KINDS.
        password: what it binds with; a simulator has none.
        settings: those of `UpstreamSettings` that differ from the defaults, as `parse_setting` reads them.

    Raises:
        InvalidUpstreamName, UpstreamExists, InvalidUpstreamKind, InvalidUpstreamPassword
        those of `settings.parse_settings` and `settings.merge_settings`
    """
    if kind not in KINDS:
        raise InvalidUpstreamKind(kind=kind, kinds=", ".join(KINDS))
    parsed = parse_settings(settings, is_simulator=kind == SIMULATOR)
    sealed = None if kind == SIMULATOR and not password else _seal_password(kind, keys, password)
    with write_transaction(conn):
        # That none of several is the default one is somebody's wish.
        has_others = conn.execute("SELECT EXISTS (SELECT 1 FROM upstreams WHERE removed_at IS NULL)").fetchone()[0]
        values = merge_settings(UpstreamSettings(), parsed, is_simulator=kind == SIMULATOR)
        insert_row(
            conn,
            "upstreams",
            name=_check_name(conn, name),
            kind=kind,
            is_default=int(not has_others),
            settings=json.dumps(list_changed_settings(values)),
            password=sealed,
            created_at=now_ms(),
        )
        audit.record_action(conn, actor, "upstream.add", name=name, kind=kind, settings=parsed)
        return get_upstream(conn, name)


def change_upstream(
    conn: sqlite3.Connection,
    keys: Keys,
    actor: Actor,
    upstream: Upstream,
    *,
    name: str | None = None,
    password: str | None = None,
    expected_version: int | None = None,
    **settings: object,
) -> Upstream:
    """Change an upstream, and return it as it is then; None, and settings that are not given: as it is.

    Args:
        password: needed where the settings send it elsewhere; see `check_stored_password`.
        expected_version: the `version` that whoever changes it has seen; None: whichever there is.

    Raises:
        NoSuchUpstream: it was removed meanwhile.
        UpstreamChanged: it has another version.
        UpstreamPasswordNeeded
        As `create_upstream`.
    """
    parsed = parse_settings(settings, is_simulator=upstream.kind == SIMULATOR)
    sealed = None if password is None else _seal_password(upstream.kind, keys, password)
    with write_transaction(conn):
        current = get_upstream_by_id(conn, upstream.id)
        if expected_version not in (None, current.version):
            raise UpstreamChanged(name=current.name)
        values = merge_settings(current.settings, parsed, is_simulator=current.kind == SIMULATOR)
        if sealed is None:
            check_stored_password(current, values)
        changes: dict[str, object] = {}
        if values != current.settings:
            changes["settings"] = json.dumps(list_changed_settings(values))
        if name is not None and name != current.name:
            changes["name"] = _check_name(conn, name, current.id)
        if sealed is not None:
            changes["password"] = sealed
        if not changes:
            return current
        if any(getattr(values, each) != getattr(current.settings, each) for each in _ID_SETTINGS):
            unclaimed.request_receipt_retry(conn, current.id)
        assignments = ", ".join(f"{column} = ?" for column in changes)
        conn.execute(f"UPDATE upstreams SET {assignments} WHERE id = ?", (*changes.values(), current.id))
        details: dict[str, Any] = {"settings": parsed, "password_changed": sealed is not None}
        new_name = changes.get("name")
        audit.record_action(conn, actor, "upstream.change", name=current.name, new_name=new_name, **details)
        return get_upstream_by_id(conn, current.id)


def check_stored_password(upstream: Upstream, settings: UpstreamSettings) -> None:
    """Make sure that the stored password, which nobody is shown, is sent by these settings to no one else.

    Raises:
        UpstreamPasswordNeeded
    """
    if reaches_others(upstream.settings, settings):
        raise UpstreamPasswordNeeded()


def record_connection_test(
    conn: sqlite3.Connection, actor: Actor, name: str, settings: UpstreamSettings, *, with_stored_password: bool
) -> None:
    """Record that somebody has a connection tested, and where to."""
    where = {each: getattr(settings, each) for each in ("host", "port", "second_host", "second_port", "tls")}
    with write_transaction(conn):
        audit.record_action(conn, actor, "upstream.test", name=name, **where, with_stored_password=with_stored_password)


def enable_upstream(conn: sqlite3.Connection, actor: Actor, upstream: Upstream) -> None:
    """Let it connect and take messages; also what is draining."""
    _change_state(conn, actor, upstream, "upstream.enable", enabled=True, draining=False)


def disable_upstream(conn: sqlite3.Connection, actor: Actor, upstream: Upstream) -> None:
    """Unbind it, and let it stay so. What waits for it goes on waiting."""
    _change_state(conn, actor, upstream, "upstream.disable", enabled=False, draining=False)


def drain_upstream(conn: sqlite3.Connection, actor: Actor, upstream: Upstream) -> None:
    """Give it no more messages; its receipts still come. One that is disabled connects for that."""
    _change_state(conn, actor, upstream, "upstream.drain", enabled=True, draining=True)


def _change_state(
    conn: sqlite3.Connection, actor: Actor, upstream: Upstream, action: str, *, enabled: bool, draining: bool
) -> None:
    with write_transaction(conn):
        updated_rows = conn.execute(
            "UPDATE upstreams SET enabled = ?1, draining = ?2 WHERE id = ?3 AND (enabled, draining) <> (?1, ?2)"
            " AND removed_at IS NULL",
            (int(enabled), int(draining), upstream.id),
        ).rowcount
        if updated_rows:
            audit.record_action(conn, actor, action, name=upstream.name)


def set_default_upstream(conn: sqlite3.Connection, actor: Actor, upstream: Upstream | None) -> None:
    """Make it the one that messages take which no route takes; None: they are refused.

    Raises:
        NoSuchUpstream: it was removed meanwhile.
    """
    with write_transaction(conn):
        current = conn.execute("SELECT id FROM upstreams WHERE is_default").fetchone()
        wanted_id = None if upstream is None else get_upstream_by_id(conn, upstream.id).id
        if wanted_id == (current and current["id"]):
            return
        conn.execute("UPDATE upstreams SET is_default = 0 WHERE is_default")
        conn.execute("UPDATE upstreams SET is_default = 1 WHERE id = ?", (wanted_id,))
        audit.record_action(conn, actor, "upstream.default", name=upstream and upstream.name)


def unset_default_upstream(conn: sqlite3.Connection, actor: Actor, upstream: Upstream) -> None:
    """Let messages that no route takes be refused; nothing where this isn't the default upstream any more.

    Raises:
        NoSuchUpstream: it was removed meanwhile.
    """
    with write_transaction(conn):
        if get_upstream_by_id(conn, upstream.id).is_default:
            set_default_upstream(conn, actor, None)


def remove_upstream(conn: sqlite3.Connection, actor: Actor, upstream: Upstream) -> None:
    """Remove an upstream; messages that it has sent go on naming it, and its name may be given again.

    Raises:
        UpstreamInRoutes
        MessagesWaitForUpstream: there are any that it is still to send.
        MessagesAreBeingMoved: what waits for others is to be given to it.
        DefaultUpstreamInUse: it is the default one, and there are others.
        NoSuchUpstream: it was removed meanwhile.
    """
    # Of a simulator not in the transaction: it takes long, and others write meanwhile. What it gets after that waits
    # again as soon as the SMPP server knows that it is removed.
    is_simulator = upstream.kind == SIMULATOR
    under_way_count = count_messages_under_way(conn, upstream) if is_simulator else 0
    with write_transaction(conn):
        current = get_upstream_by_id(conn, upstream.id)
        # First, since what waits because of a route goes elsewhere once that is removed.
        _check_routes(conn, current)
        if not is_simulator:
            under_way_count = count_messages_under_way(conn, upstream)
        if not current.is_default:
            paths.free_begun_messages(conn, current.id)
        waiting = count_waiting_messages(conn, waiting_counts.count_waiting_messages_by_path(conn))
        remaining_count = under_way_count + waiting.get(current.id, 0)
        if remaining_count:
            raise MessagesWaitForUpstream(count=remaining_count, name=upstream.name)
        check_use(conn, current)
        conn.execute(
            "UPDATE upstreams SET removed_at = ?, enabled = 0, draining = 0, is_default = 0, password = NULL"
            " WHERE id = ?",
            (now_ms(), current.id),
        )
        for table in ("upstream_binds", "upstream_health", "upstream_loads", "upstream_traces", "traced_pdus"):
            conn.execute(f"DELETE FROM {table} WHERE upstream = ?", (current.id,))
        audit.record_action(conn, actor, "upstream.remove", name=upstream.name)


def check_use(conn: sqlite3.Connection, upstream: Upstream) -> None:
    """Raises: UpstreamInRoutes, MessagesAreBeingMoved, DefaultUpstreamInUse: as `remove_upstream`."""
    _check_routes(conn, upstream)
    open_works = "SELECT 1 FROM queue_works WHERE upstream_id = ? AND ended_at IS NULL"
    if conn.execute(open_works, (upstream.id,)).fetchone():
        raise MessagesAreBeingMoved(name=upstream.name)
    if upstream.is_default and len(list_upstreams(conn)) > 1:
        raise DefaultUpstreamInUse(name=upstream.name)


def _check_routes(conn: sqlite3.Connection, upstream: Upstream) -> None:
    rows = conn.execute(
        "SELECT id FROM routes WHERE EXISTS (SELECT 1 FROM json_each(routes.upstreams) WHERE value ->> 'id' = ?)"
        " ORDER BY position",
        (upstream.id,),
    )
    route_ids = [str(row["id"]) for row in rows]
    if route_ids:
        told = ", ".join(route_ids[:_MAX_TOLD_ROUTES]) + ("…" if len(route_ids) > _MAX_TOLD_ROUTES else "")
        raise UpstreamInRoutes(name=upstream.name, routes=told)


def _check_name(conn: sqlite3.Connection, name: str, own_id: int | None = None) -> str:
    if not _NAME_PATTERN.fullmatch(name):
        raise InvalidUpstreamName(name=name)
    if conn.execute(f"{_SELECT} AND name = ? AND id IS NOT ?", (name, own_id)).fetchone():
        raise UpstreamExists(name=name)
    return name


def _seal_password(kind: str, keys: Keys, password: str) -> bytes:
    if kind == SIMULATOR:
        raise NoSettingOfSimulator("password")
    check_password(password)
    return keys.encrypt_column(password.encode())


def check_password(password: str) -> None:
    """Raises: InvalidUpstreamPassword: no bind can have it."""
    if not 0 < len(password) <= MAX_PASSWORD_LENGTH or not (password.isascii() and password.isprintable()):
        raise InvalidUpstreamPassword(limit=MAX_PASSWORD_LENGTH)
