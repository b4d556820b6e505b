"""`queue …`: what waits for upstreams, and accounts on hold."""

import sys
from collections.abc import Callable
from typing import Any

import click

from portal.cli.groups import ROOT_COMMANDS, CommandError, root
from portal.cli.shell import (
    CommandContext,
    CommandFunction,
    CommandOutput,
    DatabaseCommandGroup,
    fields_to_dict,
    format_timestamp,
    list_rows,
    parse_duration,
    wrong_usage,
)
from portal.core import i18n
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.messages import queue_selection, queue_works
from portal.services.messages.queue_selection import (
    AGE,
    CANCEL,
    GROUPINGS,
    HOLD,
    MOVE,
    RELEASE,
    UPSTREAM,
    QueueFilter,
    QueuePreview,
    QuietMessages,
)
from portal.services.messages.queue_works import QueueWork
from portal.services.upstreams import holds, upstreams

_MAX_WORKS = 20
# So many accounts are named before it is asked.
_MAX_NAMES = 5


class _QueueGroup(DatabaseCommandGroup):
    """A group that lists where no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Not while a shell asks how a line may go on: it is to be told of all commands.
        is_list = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        return super().parse_args(ctx, ["list", *args] if is_list and not ctx.resilient_parsing else args)


queue_group = _QueueGroup("queue", ROOT_COMMANDS["queue"][1])
root.add_command(queue_group)


def _filter_options(run: CommandFunction) -> CommandFunction:
    for option in reversed(
        (
            click.option("--upstream", metavar="NAME", help="What waits for this upstream."),
            click.option("--account", "account_name", metavar="A", help="Messages of this account."),
            click.option("--route", "route_id", type=int, metavar="ID", help="What takes this route; 0: none."),
            click.option("--older", type=parse_duration, metavar="10m", help="What was submitted longer ago."),
            click.option("--quiet", "is_quiet", is_flag=True, help="What waits for the end of quiet hours."),
        )
    ):
        run = option(run)
    return run


def _build_filter(
    context: CommandContext,
    upstream: str | None,
    account_name: str | None,
    route_id: int | None,
    older: int | None,
    is_quiet: bool,
) -> QueueFilter:
    return QueueFilter(
        upstream_id=None if upstream is None else upstreams.get_upstream(context.conn, upstream).id,
        account_id=None if account_name is None else accounts.get_account(context.conn, account_name).id,
        route_id=route_id,
        older_ms=older,
        is_quiet=is_quiet,
    )


@queue_group.command("list", example="queue list --by account")
@click.option("--by", "grouping", type=click.Choice(GROUPINGS), default=UPSTREAM, help="How it is grouped (upstream).")
@_filter_options
def _list_queue(context: CommandContext, *, grouping: str, **fits: Any) -> CommandOutput:
    """List what waits, in groups, the largest first; also without a command. Of accounts on hold all is held."""
    rows = queue_selection.list_queue_groups(context.conn, grouping, _build_filter(context, **fits)).rows
    values: list[dict[str, object]] = [
        {
            grouping: _format_age(row.key or 0) if grouping == AGE else row.name or None,
            **fields_to_dict(row, "waiting", "held"),
            "oldest": format_timestamp(row.oldest_at),
            "quiet": ", ".join(map(_describe_quiet, row.quiet)) or None,
        }
        for row in rows
    ]
    return (
        list_rows(values, (grouping, "waiting", "held", "oldest", "quiet"))
        if rows
        else CommandOutput([], "Nothing waits.")
    )


def _describe_quiet(quiet: QuietMessages) -> str:
    return f"{quiet.count} wait until {format_timestamp(quiet.ends_at)}: quiet hours of route {quiet.route_id}"


def _format_age(older_ms: int) -> str:
    minutes = older_ms // 60_000
    return f"{minutes // 1440}d" if minutes >= 1440 else f"{minutes // 60}h" if minutes >= 60 else f"{minutes}m"


def _add_action(action: str, help: str, *options: Callable[[CommandFunction], CommandFunction]) -> None:
    """Add the command of an action."""

    @_filter_options
    @click.option("--yes", is_flag=True, help="Don't ask; needed where stdin is no terminal.")
    def run(context: CommandContext, *, yes: bool, to: str | None = None, **fits: Any) -> CommandOutput:
        conn = context.conn
        if to is None and action == MOVE:
            wrong_usage("say --to which upstream")
        target = None if to is None else upstreams.get_upstream(conn, to)
        queue_filter = _build_filter(context, **fits)
        selection = queue_selection.build_selection(conn, action, queue_filter)
        preview = queue_selection.preview_selection(conn, action, selection, queue_filter.older_ms)
        if not preview.count:
            return CommandOutput({"id": None, "asked": 0}, "Nothing that waits fits.")
        if not yes:
            _ask(context, f"{action.capitalize()} {_describe(context, action, preview)}?")
        work_id = queue_works.create_queue_work(
            conn, SHELL, action, selection, asked_count=preview.count, target=target
        )
        return CommandOutput(
            {"id": work_id, "asked": preview.count},
            f"{_describe(context, action, preview)}: the SMPP server does it, once it runs."
            f" How far it is: {context.config.format_command('queue works')}",
        )

    run.__doc__ = help
    for each in options:
        run = each(run)
    fits = "--account smpp-acme-1" + (" --to other" if action == MOVE else "")
    queue_group.command(action, example=f"queue {action} {fits}")(run)


def _describe(context: CommandContext, action: str, preview: QueuePreview) -> str:
    largest = queue_selection.list_largest_accounts(context.conn, preview, _MAX_NAMES)
    listed = ", ".join(f"{name} ({count})" for name, count in largest)
    others = " …" if len(preview.counts_by_account) > len(largest) else ""
    about = "" if preview.is_exact else "about "
    text = f"{about}{preview.count} messages of {listed}{others}"
    if action == CANCEL:
        text += f", {about}{i18n.format_credits(preview.refund)} credits given back"
    return text


def _ask(context: CommandContext, question: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Nobody can be asked here: say --yes.")
    if not click.confirm(question, err=True):
        raise CommandError("Nothing was done.")


_add_action(HOLD, "Hold what waits: it goes on waiting until it is released, and its validity runs.")
_add_action(RELEASE, "Release what was held or moved: it takes the way that its routes say.")
_add_action(
    MOVE,
    "Let what waits wait for one upstream alone, whatever its routes say.",
    click.option("--to", metavar="NAME", help="That upstream."),
)
_add_action(CANCEL, "Cancel what waits, as cancel_sm does: it is paid back, and its receipt says so.")


@queue_group.command("works", example="queue works")
def _list_works(context: CommandContext) -> CommandOutput:
    """List what was asked for, newest first, and how far it is."""
    values = [_work_to_dict(each) for each in queue_works.list_queue_works(context.conn, _MAX_WORKS)]
    columns = ("id", "action", "to", "asked", "done", "left", "refunded", "by", "ended", "error")
    return list_rows(values, columns) if values else CommandOutput([], "Nothing was asked for.")


def _work_to_dict(work: QueueWork) -> dict[str, object]:
    return {
        **fields_to_dict(work, "id", "action"),
        "to": work.target,
        "asked": work.asked_count,
        "done": work.done_count,
        "left": work.left_count,
        "refunded": credit_amounts.credits_to_json_number(work.refunded),
        "at": format_timestamp(work.asked_at),
        "by": work.asked_by,
        "ended": format_timestamp(work.ended_at),
        "error": work.error or None,
    }


# --- accounts on hold


@queue_group.command("hold-account", example='queue hold-account smpp-acme-1 --reason "unusual traffic"')
@click.option("--reason", default="", metavar="T", help="For operators.")
def _hold_account(context: CommandContext, account: Account, *, reason: str) -> CommandOutput:
    """Hold all of an account, also what it submits from now on: it is accepted and charged, and waits."""
    if not holds.hold_account(context.conn, SHELL, account.id, reason):
        return CommandOutput({"account": account.name, "held": True}, f"{account.name} was on hold already.")
    return CommandOutput({"account": account.name, "held": True}, f"{account.name} is on hold.")


@queue_group.command("release-account", example="queue release-account smpp-acme-1")
def _release_account(context: CommandContext, account: Account) -> CommandOutput:
    """Let the messages of an account go on."""
    words = "was released" if holds.release_account(context.conn, SHELL, account.id) else "was not on hold"
    return CommandOutput({"account": account.name, "held": False}, f"{account.name} {words}.")


@queue_group.command("holds", example="queue holds")
def _list_holds(context: CommandContext) -> CommandOutput:
    """List the accounts on hold, newest first."""
    values = [
        {
            **fields_to_dict(each, "account", "reason"),
            "since": format_timestamp(each.since),
            "by": each.actor,
        }
        for each in holds.list_account_holds(context.conn)
    ]
    columns = ("account", "reason", "since", "by")
    return list_rows(values, columns) if values else CommandOutput([], "No account is on hold.")
