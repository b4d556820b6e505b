"""`config`, `backup`, `restore`, `compact` and `check`: looking after an installation."""

import os
import sqlite3
from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path
from urllib.parse import urlsplit

from portal import supervisor
from portal.cli.shell import Answer, Commands, Shell, command, database_command, load_settings, opened, table
from portal.core import crypto
from portal.core.config import Config, Source
from portal.services.operations import backup, daily_self_check, self_check
from portal.services.operations.self_check import Problem

_MASK = "•••"
# Anybody who has something to do comes first.
_LOW_PRIORITY = 19


def register(commands: "Commands[ArgumentParser]") -> None:
    command(commands, "config", _config, "print every setting with its value, its default and where it came from")
    copy = database_command(commands, "backup", _backup, "write a consistent copy of the database, also while it runs")
    copy.add_argument("file", metavar="FILE", type=Path)
    restore = command(commands, "restore", _restore, "put a copy back; the server must not run")
    restore.add_argument("file", metavar="FILE", type=Path)
    command(commands, "compact", _compact, "give back the space of what was deleted; the server must not run")
    proof = command(commands, "check", _check, "prove that file, ledger, messages and totals agree; 1 if they don't")
    proof.add_argument(
        "--record",
        action="store_true",
        help="as the daily check: at low priority, kept for the administration, what is new mailed to the operators",
    )
    proof.add_argument("--supervised", action="store_true", help=SUPPRESS)


def _config(args: Namespace) -> Answer:
    config = load_settings(args)
    rows: list[dict[str, object]] = [
        {"key": each.key, "value": _masked(each), "default": each.default, "origin": each.origin, "help": each.help}
        for each in [*config.sources, *_upstreams(config)]
    ]
    lines = [(row["key"], _text(row["value"]), _text(row["default"]), row["origin"]) for row in rows]
    return Answer(rows, table(("key", "value", "default", "from"), lines))


def _upstreams(config: Config) -> list[Source]:
    return [
        Source(f"upstream.{each.name}.kind", each.kind, "simulator", "settings", "where messages go")
        for each in config.upstreams
    ]


def _masked(source: Source) -> object:
    if source.key in ("web.metrics_token", "payments.secret") and source.value:
        return _MASK
    if source.key == "mail.url" and (password := urlsplit(source.value).password):
        return source.value.replace(f":{password}@", f":{_MASK}@")
    return source.value


def _text(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text.replace("\n", "\\n")


def _backup(shell: Shell, args: Namespace) -> Answer:
    backup.backup(shell.conn, args.file)
    key = shell.config.data / crypto.FILE_NAME
    size = args.file.stat().st_size
    text = f"{args.file} ({size} bytes). It is of use only with {key}: keep a copy of that elsewhere."
    return Answer({"file": str(args.file), "bytes": size}, text)


def _restore(args: Namespace) -> Answer:
    config = load_settings(args)
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = backup.restore(config.data, args.file)
    text = f"{args.file} is in place." + (f" What was there before: {kept}" if kept else "")
    key = config.data / crypto.FILE_NAME
    missing = "" if key.exists() else f"{key} is missing: put back the key that belongs to this database."
    return Answer({"replaced": str(kept) if kept else None}, text, problem=missing)


def _compact(args: Namespace) -> Answer:
    config = load_settings(args)
    with opened(config):
        # Only makes sure that there is an installation, and that it is up to date.
        pass
    before, after = backup.compact(config.data)
    text = f"{before >> 20} MB before, {after >> 20} MB now."
    return Answer({"bytes_before": before, "bytes_after": after}, text)


def _check(args: Namespace) -> Answer:
    config = load_settings(args)
    if args.supervised:
        supervisor.end_with_starter()
    try:
        with opened(config) as shell:
            problems = _record(shell) if args.record else _prove(shell)
    except sqlite3.DatabaseError as error:
        problems = [self_check.unreadable(error)]
    value = {"ok": not problems, "problems": [str(each) for each in problems]}
    if not problems:
        return Answer(value, "File, ledger, messages and totals agree.")
    return Answer(value, "\n".join(map(str, problems)), f"{len(problems)} found that should not be", status=1)


def _prove(shell: Shell) -> list[Problem]:
    with self_check.copied(shell.conn, shell.config.data) as copy:
        return self_check.prove(copy)


def _record(shell: Shell) -> list[Problem]:
    os.nice(_LOW_PRIORITY)
    return daily_self_check.run(shell.conn, shell.keys, shell.config.data)
