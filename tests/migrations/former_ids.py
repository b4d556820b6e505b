"""Databases of the version before ids were short, for tests of the migration and of what comes after it."""

import json
from array import array
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from portal.core import db
from portal.migrations.steps import migrations as all_steps
from portal.services.common import ids

STEP = "m0017_short_ids"
_MAX_ID = (1 << 63) - 2
# Where ids stand. Those of orders, connections and the like are plain numbers.
ID_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "messages": ("id", "joined_to"),
    "received": ("id",),
    "movements": ("id", "first_message_id", "last_message_id"),
    "deliveries": ("id", "message_id", "received_id"),
    "blacklist": ("received_id",),
    "expiring_credits": ("movement_id", "expiry_id"),
    "orders": ("movement_id",),
    "history_chunks": ("first_id", "last_id"),
    "deleted_charges": ("charged_from", "first_id", "last_id"),
    "deleted_refunds": ("message_id",),
    "deletions": ("before",),
    "text_removals": ("after_id", "last_id", "received_after_id"),
    "gathered": ("message_id",),
}
_MOVEMENT_ID_COLUMNS = ("movement_id", "expiry_id")
# What has another name today.
_RENAMED_TABLES = {"routes": "inbound_numbers"}
# What is kept in other tables today.
_REPLACED_TABLES = {"refused_binds", "mailed_refusals"}


def former_id(row_id: int, raised_counter: int = 0) -> int:
    """The id that a message, movement or delivery had before; `raised_counter` is added to the counter in it."""
    if not 0 < row_id < _MAX_ID:
        return row_id
    at = ids.time_from_id(row_id)
    return (at << 20) + row_id - ids.min_id_at_time(at) + raised_counter


def create_former_database(file: Path) -> None:
    """Create an empty database of the version before."""
    with closing(db.connect(file)) as conn:
        all_steps.apply(Database(conn), stop_before=STEP)


def write_former_database(
    conn: db.Connection,
    file: Path,
    raise_counter: Callable[[int], int] = lambda _: 0,
    *,
    with_movements: bool = True,
) -> None:
    """Write all that a database holds into a new one of the version before.

    Args:
        raise_counter: gives, for a time (milliseconds), what is added to the counters of all its ids.
        with_movements: to those of movements, too. They count for themselves, and more slowly.
    """

    def convert(row_id: Any, *, raised: bool = True) -> Any:
        return None if row_id is None else former_id(row_id, raise_counter(ids.time_from_id(row_id)) if raised else 0)

    def convert_row(table: str, row: dict[str, Any]) -> dict[str, Any]:
        converted = {}
        for name in ID_COLUMNS.get(table, ()):
            of_movement = name in _MOVEMENT_ID_COLUMNS or (table, name) == ("movements", "id")
            converted[name] = convert(row[name], raised=with_movements or not of_movement)
        if table == "ended":
            converted["messages"] = array("q", map(convert, array("q", row["messages"]))).tobytes()
        if table == "deletions":
            scope = json.loads(row["wanted"])
            scope["before"] = convert(scope["before"])
            if "ids" in scope:
                scope["ids"] = [convert(each) for each in scope["ids"]]
            converted["wanted"] = json.dumps(scope)
        if table == "counters" and row["name"] in ("message_id", "movement_id"):
            converted["value"] = convert(row["value"], raised=with_movements or row["name"] == "message_id")
        return row | converted

    create_former_database(file)
    with closing(db.connect(file)) as former:
        former.execute("PRAGMA foreign_keys = OFF")
        triggers = former.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for trigger in triggers:
            former.execute(f"DROP TRIGGER {trigger['name']}")
        for table in _list_tables(former):
            columns = [row["name"] for row in former.execute(f"PRAGMA table_info({table})")]
            name_today = _RENAMED_TABLES.get(table, table)
            rows = conn.execute(f"SELECT {', '.join(columns)} FROM {name_today}").fetchall()
            if table == "counters":  # of these only those that there were
                names = {row["name"] for row in former.execute("SELECT name FROM counters")}
                rows = [row for row in rows if row["name"] in names]
            former.execute(f"DELETE FROM {table}")
            former.executemany(
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(f':{each}' for each in columns)})",
                [convert_row(table, dict(row)) for row in rows],
            )
        for trigger in triggers:
            former.execute(trigger["sql"])


def _list_tables(conn: db.Connection) -> list[str]:
    rows = conn.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('sqlite_sequence', '_sqlite_migrations')"
    )
    return [row["name"] for row in rows if row["name"] not in _REPLACED_TABLES]


def list_columns(file: Path) -> dict[str, list[str]]:
    """The columns of each table of a database."""
    with closing(db.connect(file)) as conn:
        return {
            table: [row["name"] for row in conn.execute(f"PRAGMA table_info({table})")] for table in _list_tables(conn)
        }


def list_former_columns(file: Path) -> dict[str, list[str]]:
    """The columns of each table of a database of the version before, by the tables' names of today."""
    return {_RENAMED_TABLES.get(table, table): columns for table, columns in list_columns(file).items()}


def read_tables(file: Path, columns_by_table: Mapping[str, list[str]]) -> dict[str, list[tuple[Any, ...]]]:
    """What a database holds in these columns, by table."""
    with closing(db.connect(file)) as conn:
        return {
            table: sorted((tuple(row) for row in conn.execute(f"SELECT {', '.join(columns)} FROM {table}")), key=repr)
            for table, columns in columns_by_table.items()
        }
