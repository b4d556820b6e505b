"""The new ids, and all that refers to them: `m0017_short_ids.sql` tells what they are."""

import json
from array import array

from sqlite_utils import Database

_EPOCH_MS = 1_577_836_800_000
_FORMER_SHIFT, _SHIFT = 20, 12
_FORMER_COUNTER, _COUNTER = (1 << _FORMER_SHIFT) - 1, (1 << _SHIFT) - 1
_QUARTER_MS = 15 * 60_000
# In a deletion of selected messages, instead of the id up to which messages are deleted.
_UNBOUNDED = (1 << 63) - 2


def _candidate_sql(former_id: str) -> str:
    """The id with the time of a former one: the one that it gets, unless another one has it."""
    return f"((({former_id} >> {_FORMER_SHIFT}) - {_EPOCH_MS} << {_SHIFT}) + ({former_id} & {_FORMER_COUNTER}))"


def _short_sql(space: str, former_id: str) -> str:
    """The new id for a former one; 0, which means none, and what isn't an id stay.

    Args:
        space: `message` (received ones, too), `movement` or `delivery`.
    """
    return (
        f"iif({former_id} <= 0 OR {former_id} >= {_UNBOUNDED}, {former_id}, coalesce((SELECT short_id"
        f" FROM short_{space}_ids WHERE former_id = {former_id}), {_candidate_sql(former_id)}))"
    )


# Where messages' ids stand, those of deleted messages included: the order has to hold for them all. What is in `ended`
# is in `messages`.
_MESSAGE_IDS = {
    "messages": ("id",),
    "messages WHERE joined_to IS NOT NULL": ("joined_to",),
    "received": ("id",),
    "movements": ("first_message_id", "last_message_id"),
    "deliveries": ("message_id", "received_id"),
    "blacklist": ("received_id",),
    "history_chunks": ("first_id", "last_id"),
    "gathered": ("message_id",),
    "deleted_charges": ("charged_from", "first_id", "last_id"),
    "deleted_refunds": ("message_id",),
    "deletions": ("before", "wanted ->> '$.before'"),
    "deletions, json_each(wanted, '$.ids')": ("value",),
    "text_removals": ("after_id", "last_id", "received_after_id"),
    "counters WHERE name = 'message_id'": ("value",),
}
# A movement charges messages from its own time on, at most a millisecond later: it is looked for from there.
_MOVEMENT_CANDIDATE = (
    f"max({_candidate_sql('id')}, iif(kind = 'usage', {_short_sql('message', 'coalesce(first_message_id, 0)')}, 0))"
)
_MOVEMENT_IDS = {
    "expiring_credits": ("movement_id", "expiry_id"),
    "orders": ("movement_id",),
    "counters WHERE name = 'movement_id'": ("value",),
}


def _select_ids(columns_by_table: dict[str, tuple[str, ...]]) -> list[str]:
    return [
        f"SELECT {column} AS id, {_candidate_sql(column)} AS candidate FROM {table}"
        for table, columns in columns_by_table.items()
        for column in columns
    ]


def _find_exceptions(database: Database, space: str, selects: list[str]) -> None:
    """Give an id to each former one of a quarter of an hour in which not all get their candidate."""
    all_ids = (
        f"(SELECT id, candidate, max(id / {_QUARTER_MS << _FORMER_SHIFT}, {_EPOCH_MS // _QUARTER_MS}) AS quarter"
        f" FROM ({' UNION ALL '.join(selects)}) WHERE id > 0 AND id < {_UNBOUNDED})"
    )
    database.execute("DELETE FROM crowded_quarters")
    database.execute(
        f"INSERT INTO crowded_quarters SELECT DISTINCT quarter FROM {all_ids}"
        f" WHERE id & {_FORMER_COUNTER} > {_COUNTER} OR candidate <= 0 OR candidate > {_candidate_sql('id')}"
    )
    # Each gets its candidate, or the id after that of the one before it; at most the last ones of the quarter.
    database.execute(
        f"INSERT INTO short_{space}_ids"
        " SELECT id, min("
        "  place + max(candidate - place) OVER (PARTITION BY quarter ORDER BY id ROWS UNBOUNDED PRECEDING),"
        f" ((quarter + 1) * {_QUARTER_MS} - {_EPOCH_MS} << {_SHIFT}) - 1 - places + place) FROM"
        " (SELECT id, quarter, max(candidate, 1) AS candidate, count(*) OVER (PARTITION BY quarter) AS places,"
        "  row_number() OVER (PARTITION BY quarter ORDER BY id) AS place FROM"
        f" (SELECT id, quarter, max(candidate) AS candidate FROM {all_ids}"
        "  WHERE quarter IN (SELECT quarter FROM crowded_quarters) GROUP BY id))"
    )


def _rewrite_table(database: Database, table: str, **spaces: str) -> None:
    """Write a table anew, in its order, with the new ids in these columns; its indexes and triggers, too.

    That takes a fraction of what it takes to change the keys of the rows, one by one in the table and in each index.
    """
    query = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type <> 'table', name"
    create_table, *others = [row[0] for row in database.execute(query, [table])]
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    values = [_short_sql(spaces[each], each) if each in spaces else each for each in columns]
    keys = [row[0] for row in database.execute(f"SELECT name FROM pragma_table_info('{table}') WHERE pk ORDER BY pk")]
    database.execute(create_table.replace(table, f"short_{table}", 1))
    database.execute(
        f"INSERT INTO short_{table} ({', '.join(columns)})"
        f" SELECT {', '.join(values)} FROM {table} ORDER BY {', '.join(keys)}"
    )
    database.execute(f"DROP TABLE {table}")
    database.execute(f"ALTER TABLE short_{table} RENAME TO {table}")
    for statement in others:
        database.execute(statement)


def _rewrite_movements(database: Database) -> None:
    """Write the ledger anew, and what refers to it."""
    database.execute("PRAGMA defer_foreign_keys = ON")
    # While it holds rows, SQLite looks through this table for each movement that goes.
    database.execute("CREATE TEMP TABLE expiring_credits_before AS SELECT * FROM expiring_credits")
    database.execute("DELETE FROM expiring_credits")
    _rewrite_table(database, "movements", id="movement", first_message_id="message", last_message_id="message")
    database.execute(
        "INSERT INTO expiring_credits (account_id, movement_id, expires_at, amount, expired_at, expiry_id)"
        f" SELECT account_id, {_short_sql('movement', 'movement_id')}, expires_at, amount, expired_at,"
        f" {_short_sql('movement', 'expiry_id')} FROM expiring_credits_before"
    )
    # What had the last ids of a full quarter of an hour is a little earlier now.
    database.execute(
        f"UPDATE expiring_credits SET expired_at = min(expired_at, (expiry_id >> {_SHIFT}) + {_EPOCH_MS})"
        " WHERE expiry_id IS NOT NULL"
    )
    # In two steps, as none may have the id of another one meanwhile.
    database.execute(f"UPDATE orders SET movement_id = -{_short_sql('movement', 'movement_id')}")
    database.execute("UPDATE orders SET movement_id = -movement_id")


def _update_references(database: Database) -> None:
    for table, columns, condition in (
        ("blacklist", ("received_id",), "received_id IS NOT NULL"),
        ("gathered", ("message_id",), "true"),
        ("text_removals", ("after_id", "last_id", "received_after_id"), "true"),
        ("deletions", ("before",), "true"),
        ("counters", ("value",), "name = 'message_id'"),
    ):
        assignments = ", ".join(f"{each} = {_short_sql('message', each)}" for each in columns)
        database.execute(f"UPDATE {table} SET {assignments} WHERE {condition}")
    database.execute(f"UPDATE counters SET value = {_short_sql('movement', 'value')} WHERE name = 'movement_id'")
    before = "(wanted ->> '$.before')"
    database.execute(f"UPDATE deletions SET wanted = json_set(wanted, '$.before', {_short_sql('message', before)})")
    database.execute(
        "UPDATE deletions SET wanted = json_set(wanted, '$.ids', json((SELECT json_group_array("
        f"{_short_sql('message', 'value')}) FROM json_each(wanted, '$.ids')))) WHERE wanted ->> '$.ids' IS NOT NULL"
    )
    _update_ended_messages(database)


def _update_ended_messages(database: Database) -> None:
    """Eight octets an id."""
    for (row_id,) in database.execute("SELECT id FROM ended").fetchall():
        former_ids = array("q")
        former_ids.frombytes(database.execute("SELECT messages FROM ended WHERE id = ?", [row_id]).fetchone()[0])
        short_ids = database.execute(
            f"SELECT {_short_sql('message', 'value')} FROM json_each(?) ORDER BY key", [json.dumps(list(former_ids))]
        )
        database.execute(
            "UPDATE ended SET messages = ? WHERE id = ?", [array("q", [row[0] for row in short_ids]).tobytes(), row_id]
        )


def _store_former_ids(database: Database) -> None:
    """Store what clients know messages by, where it doesn't follow from the new ids."""
    former_id = f"((short_id >> {_SHIFT}) + {_EPOCH_MS} << {_FORMER_SHIFT}) + (short_id & {_COUNTER})"
    database.execute(
        "INSERT INTO former_ids SELECT min(short_id), max(short_id), min(former_id) FROM"
        " (SELECT *, sum(is_first) OVER (ORDER BY short_id) AS run FROM"
        "  (SELECT *, shift IS NOT lag(shift) OVER (ORDER BY short_id) AS is_first FROM"
        f"   (SELECT short_id, former_id, iif(former_id <> {former_id}, former_id - short_id, NULL) AS shift"
        "    FROM short_message_ids"
        "    WHERE short_id IN (SELECT id FROM messages) OR short_id IN (SELECT id FROM received))))"
        " WHERE shift IS NOT NULL GROUP BY run"
    )
    for name, table in (("former_message_id", "messages"), ("former_received_id", "received")):
        database.execute(f"INSERT INTO counters SELECT '{name}', coalesce(max(id), 0) FROM {table}")


# Tables of totals: the column with the time, the first period of 2020, the condition for periods of that length and,
# for each account, the first period that is kept in full; the keys beside account and time; the sums.
_COUNTS = ("sent", "delivered", "failed", "stopped", "refused", "parts", "price")
_EPOCH_DAY = _EPOCH_MS // 86_400_000
_KEPT_MONTH = (
    "iif(kept_since, strftime('%Y', (kept_since - 1) * 86400, 'unixepoch') * 12"
    " + strftime('%m', (kept_since - 1) * 86400, 'unixepoch'), 0)"
)
_TOTALS = [
    ("daily_totals", "day", _EPOCH_DAY, "true", "kept_since", (), _COUNTS),
    ("deleted_days", "day", _EPOCH_DAY, "true", "kept_since", ("country", "source"), _COUNTS),
    *(
        (table, "begins", epoch, f"length = {length}", kept_since, ("length", *keys), sums)
        for table, keys, sums in (
            ("statistics", ("country", "source"), _COUNTS),
            ("statistics_endings", ("ptt",), ("messages",)),
            ("statistics_times", ("bucket",), ("messages",)),
        )
        for length, epoch, kept_since in (
            (0, _EPOCH_DAY * 24, "kept_since * 24"),
            (1, _EPOCH_DAY, "kept_since"),
            (2, 2020 * 12, _KEPT_MONTH),
        )
    ),
]


def _move_early_totals(database: Database) -> None:
    """Add what was counted before 2020 to the first day of 2020, where its messages are now."""
    for table, time, epoch, length, kept_since, keys, sums in _TOTALS:
        early = (
            f"{length} AND {time} < {epoch}"
            f" AND {time} >= (SELECT {kept_since} FROM accounts WHERE accounts.id = {table}.account_id)"
        )
        columns = ", ".join(("account_id", *keys))
        database.execute(
            f"INSERT INTO {table} ({columns}, {time}, {', '.join(sums)})"
            f" SELECT {columns}, {epoch}, {', '.join(f'sum({each})' for each in sums)} FROM {table} WHERE {early}"
            f" GROUP BY {columns} ON CONFLICT ({columns}, {time})"
            f" DO UPDATE SET {', '.join(f'{each} = {each} + excluded.{each}' for each in sums)}"
        )
        database.execute(f"DELETE FROM {table} WHERE {early}")


def m0017_short_ids(database: Database) -> None:
    _find_exceptions(database, "message", _select_ids(_MESSAGE_IDS))
    movement_ids = [*_select_ids(_MOVEMENT_IDS), f"SELECT id, {_MOVEMENT_CANDIDATE} AS candidate FROM movements"]
    _find_exceptions(database, "movement", movement_ids)
    _find_exceptions(database, "delivery", _select_ids({"deliveries": ("id",)}))
    _rewrite_table(database, "messages", id="message", joined_to="message")
    _rewrite_table(database, "received", id="message")
    _rewrite_table(database, "deliveries", id="delivery", message_id="message", received_id="message")
    _rewrite_table(database, "history_chunks", first_id="message", last_id="message")
    _rewrite_table(database, "deleted_charges", charged_from="message", first_id="message", last_id="message")
    _rewrite_table(database, "deleted_refunds", message_id="message")
    _rewrite_movements(database)
    _update_references(database)
    _move_early_totals(database)
    _store_former_ids(database)
    for table in ("short_message_ids", "short_movement_ids", "short_delivery_ids", "crowded_quarters"):
        database.execute(f"DROP TABLE {table}")
    database.execute("DROP TABLE expiring_credits_before")
