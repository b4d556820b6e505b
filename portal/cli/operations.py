"""`config`, `audit`, `backup`, `restore`, `migrate`, `compact` and `check`: looking after an installation."""

import json
import logging
import os
import sqlite3
import sys
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import click

from portal import migrations, supervisor
from portal.cli.groups import PATH, CommonOptions
from portal.cli.progress import show_progress
from portal.cli.shell import (
    Command,
    CommandContext,
    CommandOutput,
    format_table,
    list_rows,
    load_config,
    lock_and_migrate_database,
    open_database,
    require_installation,
    root_command,
)
from portal.core.clock import now_ms
from portal.core.config import SettingOrigin
from portal.core.crypto import FILE_NAME as KEY_FILE_NAME
from portal.core.crypto import KeyFileError
from portal.core.progress import no_progress
from portal.services.common.periods import ALL_TIME_PERIOD, RANGE, parse_period
from portal.services.operations import audit_log, backup, daily_self_check, database_key, self_check
from portal.services.operations.self_check import problem
from portal.services.operations.self_check.problem import Problem
from portal.services.people import customers

_MASK = "•••"
# Anybody who has something to do comes first.
_LOW_PRIORITY = 19
_CHECK_PROGRESS = ("Check", "it found out nothing, and the database is as it was")

_file_argument = click.argument("file", metavar="FILE", type=PATH)


@root_command("config", cls=Command, example="config --data /var/lib/smpp-portal")
def _show_config(options: CommonOptions) -> CommandOutput:
    config = load_config(options)
    rows = [asdict(each) | {"value": _mask_secret(each)} for each in config.setting_origins]
    for row in rows:
        del row["is_secret"]
    lines = [
        (row["key"], _format_setting(row["value"]), _format_setting(row["default"]), row["origin"]) for row in rows
    ]
    return CommandOutput(rows, format_table(("key", "value", "default", "from"), lines))


def _mask_secret(source: SettingOrigin) -> object:
    if source.key == "mail.url":
        password = urlsplit(source.value).password
        return source.value.replace(f":{password}@", f":{_MASK}@") if password else source.value
    return _MASK if source.is_secret and source.value else source.value


def _format_setting(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text.replace("\n", "\\n")


@root_command("audit", example="audit --account smpp-acme-1 --action ip.add --from 2026-11-01")
@click.option("--customer", "customer_name", metavar="NAME", help="About one customer.")
@click.option("--account", metavar="NAME", help="About one account.")
@click.option("--actor", metavar="EMAIL", help="By whom: an e-mail address, shell or system.")
@click.option("--action", metavar="ACTION", help="What was done, such as ip.add.")
@click.option("--address", metavar="IP", help="From where.")
@click.option("--from", "first", default="", metavar="DATE", help="The first day, such as 2026-11-01.")
@click.option("--to", "last", default="", metavar="DATE", help="The last day (default: today).")
@click.option("--limit", type=click.IntRange(min=1), default=100, metavar="N", help="So many rows at most (100).")
def _show_audit_log(
    context: CommandContext, *, customer_name: str | None, first: str, last: str, limit: int, **texts: str | None
) -> CommandOutput:
    customer_id = customers.get_customer(context.conn, customer_name).id if customer_name else None
    period = ALL_TIME_PERIOD
    if first or last:
        period = parse_period(RANGE, first, last, context.config.timezone, now_ms())
    audit_filter = audit_log.build_audit_filter(context.conn, customer_id=customer_id, period=period, **texts)
    entries = islice(audit_log.iterate_audit_log(context.conn, audit_filter), limit)
    return list_rows(
        [audit_log.audit_entry_to_dict(each) for each in entries],
        ("at", "actor", "address", "customer", "account", "action", "count", "details"),
        lambda row: {"details": json.dumps(row["details"], ensure_ascii=False) if row["details"] else ""},
    )


@root_command("backup", cls=Command, example="backup /backups/portal-2026-11-22.db")
@_file_argument
def _create_backup(options: CommonOptions, file: Path) -> CommandOutput:
    config = load_config(options)
    # Before an update the newer version may make it, too.
    with (
        open_database(config, may_be_older=True) as context,
        show_progress("Backup", "no file was written") as progress,
    ):
        backup.create_backup(context.conn, file, progress)
    key = config.data / KEY_FILE_NAME
    size = file.stat().st_size
    text = f"{file} ({size} bytes). It is of use only with {key}: keep a copy of that elsewhere."
    return CommandOutput({"file": str(file), "bytes": size}, text)


@root_command("restore", cls=Command, example="restore /backups/portal-2026-11-22.db")
@_file_argument
def _restore_backup(options: CommonOptions, file: Path) -> CommandOutput:
    config = load_config(options)
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with show_progress("Restore", "the database is as it was") as progress:
        previous_file = backup.restore_backup(config.data, file, progress)
    text = f"{file} is in place." + (f" What was there before: {previous_file}" if previous_file else "")
    if migrations.list_pending_migrations(config.database_file):
        text += "\nAn older version wrote it: `serve` or `migrate` brings it up to date."
    key = config.data / KEY_FILE_NAME
    missing = "" if key.exists() else f"{key} is missing: put back the key that belongs to this database."
    return CommandOutput({"replaced": str(previous_file) if previous_file else None}, text, problem=missing)


@root_command("migrate", cls=Command, example="migrate")
def _migrate_database(options: CommonOptions) -> CommandOutput:
    config = load_config(options)
    require_installation(config)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s migrate %(message)s")
    with lock_and_migrate_database(config) as applied:
        text = f"{len(applied)} applied, up to {applied[-1]}." if applied else "The database was up to date."
        return CommandOutput({"applied": applied}, text)


@root_command("compact", cls=Command, example="compact")
def _compact_database(options: CommonOptions) -> CommandOutput:
    config = load_config(options)
    with open_database(config):
        # Only makes sure that there is an installation, and that it is up to date.
        pass
    with show_progress("Compact", "the database is as it was") as progress:
        before, after = backup.compact_database(config.data, progress)
    text = f"{before >> 20} MB before, {after >> 20} MB now."
    return CommandOutput({"bytes_before": before, "bytes_after": after}, text)


@root_command("check", cls=Command, example="check --json")
@click.option(
    "--record",
    is_flag=True,
    help="As the daily check: at low priority, kept for the administration, what is new mailed to the operators.",
)
@click.option("--supervised", is_flag=True, hidden=True)
def _check_installation(options: CommonOptions, *, record: bool, supervised: bool) -> CommandOutput:
    config = load_config(options)
    if supervised:
        supervisor.exit_with_parent()
    pending: list[str] = []
    try:
        with open_database(config, may_be_older=not record, any_key=not record) as context:
            pending = migrations.list_pending_names(context.conn)
            problems = _run_daily_self_check(context, supervised=supervised) if record else _run_self_check(context)
    except (sqlite3.DatabaseError, migrations.MigrationFailed) as error:
        problems = [problem.problem_from_error(error)]
    value = {"ok": not problems, "problems": [str(each) for each in problems]}
    text = "\n".join(map(str, problems)) or "File, ledger, messages and totals agree."
    if pending:
        text += f"\nAn older version wrote the database. A migrated copy of it was checked ({', '.join(pending)})."
    if not problems:
        return CommandOutput(value, text)
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return CommandOutput(value, text, f"{count} found", status=1)


def _run_self_check(context: CommandContext) -> list[Problem]:
    problems: list[Problem] = []
    keys = None
    try:
        database_key.require_key_of_database(context.conn, context.config.data)
        keys = context.keys
        if count := database_key.count_unopened_secrets(context.conn, context.keys):
            problems.append(problem.problem_from_unopened_secrets(count))
    except KeyFileError as error:
        problems.append(problem.problem_from_error(error))
    with (
        show_progress(*_CHECK_PROGRESS) as progress,
        daily_self_check.open_database_copy(context.conn, context.config.data, progress) as copy,
    ):
        return problems + self_check.find_problems(copy, progress, keys=keys)


def _run_daily_self_check(context: CommandContext, *, supervised: bool) -> list[Problem]:
    os.nice(_LOW_PRIORITY)
    # In the server's log it would be lines that nobody waits for.
    with nullcontext(no_progress) if supervised else show_progress(*_CHECK_PROGRESS) as progress:
        return daily_self_check.run_daily_check(context.conn, context.keys, context.config.data, progress)
