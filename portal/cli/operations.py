"""`config`, `backup`, `restore`, `compact` and `check`: looking after an installation."""

import os
import sqlite3
from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path
from urllib.parse import urlsplit

from portal import supervisor
from portal.cli.progress import show_progress
from portal.cli.shell import (
    CommandContext,
    CommandOutput,
    Commands,
    add_command,
    add_database_command,
    format_table,
    load_config,
    open_database,
)
from portal.core import crypto
from portal.core.config import Config, SettingOrigin
from portal.services.operations import backup, daily_self_check, self_check
from portal.services.operations.self_check import Problem

_MASK = "•••"
# Anybody who has something to do comes first.
_LOW_PRIORITY = 19


def register_commands(commands: "Commands[ArgumentParser]") -> None:
    add_command(
        commands, "config", _show_config, "print every setting with its value, its default and where it came from"
    )
    copy = add_database_command(
        commands, "backup", _create_backup, "write a consistent copy of the database, also while it runs"
    )
    copy.add_argument("file", metavar="FILE", type=Path)
    restore = add_command(commands, "restore", _restore_backup, "put a copy back; the server must not run")
    restore.add_argument("file", metavar="FILE", type=Path)
    add_command(
        commands, "compact", _compact_database, "give back the space of what was deleted; the server must not run"
    )
    proof = add_command(
        commands, "check", _check_installation, "prove that file, ledger, messages and totals agree; 1 if they don't"
    )
    proof.add_argument(
        "--record",
        action="store_true",
        help="as the daily check: at low priority, kept for the administration, what is new mailed to the operators",
    )
    proof.add_argument("--supervised", action="store_true", help=SUPPRESS)


def _show_config(args: Namespace) -> CommandOutput:
    config = load_config(args)
    rows: list[dict[str, object]] = [
        {
            "key": each.key,
            "value": _mask_secret(each),
            "default": each.default,
            "origin": each.origin,
            "help": each.help,
        }
        for each in [*config.setting_origins, *_upstream_sources(config)]
    ]
    lines = [
        (row["key"], _format_setting(row["value"]), _format_setting(row["default"]), row["origin"]) for row in rows
    ]
    return CommandOutput(rows, format_table(("key", "value", "default", "from"), lines))


def _upstream_sources(config: Config) -> list[SettingOrigin]:
    return [
        SettingOrigin(f"upstream.{each.name}.kind", each.kind, "simulator", "settings", "where messages go")
        for each in config.upstreams
    ]


def _mask_secret(source: SettingOrigin) -> object:
    if source.key in ("web.metrics_token", "payments.secret") and source.value:
        return _MASK
    if source.key == "mail.url" and (password := urlsplit(source.value).password):
        return source.value.replace(f":{password}@", f":{_MASK}@")
    return source.value


def _format_setting(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text.replace("\n", "\\n")


def _create_backup(context: CommandContext, args: Namespace) -> CommandOutput:
    with show_progress("Backup", "no file was written") as progress:
        backup.create_backup(context.conn, args.file, progress)
    key = context.config.data / crypto.FILE_NAME
    size = args.file.stat().st_size
    text = f"{args.file} ({size} bytes). It is of use only with {key}: keep a copy of that elsewhere."
    return CommandOutput({"file": str(args.file), "bytes": size}, text)


def _restore_backup(args: Namespace) -> CommandOutput:
    config = load_config(args)
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with show_progress("Restore", "the database is as it was") as progress:
        previous_file = backup.restore_backup(config.data, args.file, progress)
    text = f"{args.file} is in place." + (f" What was there before: {previous_file}" if previous_file else "")
    key = config.data / crypto.FILE_NAME
    missing = "" if key.exists() else f"{key} is missing: put back the key that belongs to this database."
    return CommandOutput({"replaced": str(previous_file) if previous_file else None}, text, problem=missing)


def _compact_database(args: Namespace) -> CommandOutput:
    config = load_config(args)
    with open_database(config):
        # Only makes sure that there is an installation, and that it is up to date.
        pass
    with show_progress("Compact", "the database is as it was") as progress:
        before, after = backup.compact_database(config.data, progress)
    text = f"{before >> 20} MB before, {after >> 20} MB now."
    return CommandOutput({"bytes_before": before, "bytes_after": after}, text)


def _check_installation(args: Namespace) -> CommandOutput:
    config = load_config(args)
    if args.supervised:
        supervisor.exit_with_parent()
    try:
        with open_database(config) as context:
            problems = _run_daily_self_check(context) if args.record else _run_self_check(context)
    except sqlite3.DatabaseError as error:
        problems = [self_check.problem_from_error(error)]
    value = {"ok": not problems, "problems": [str(each) for each in problems]}
    if not problems:
        return CommandOutput(value, "File, ledger, messages and totals agree.")
    return CommandOutput(value, "\n".join(map(str, problems)), f"{len(problems)} found that should not be", status=1)


def _run_self_check(context: CommandContext) -> list[Problem]:
    with (
        show_progress("Check", "it found out nothing, and the database is as it was") as progress,
        self_check.open_database_copy(context.conn, context.config.data, progress) as copy,
    ):
        return self_check.find_problems(copy, progress)


def _run_daily_self_check(context: CommandContext) -> list[Problem]:
    os.nice(_LOW_PRIORITY)
    return daily_self_check.run_daily_check(context.conn, context.keys, context.config.data)
