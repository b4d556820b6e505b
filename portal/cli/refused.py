"""`refused`: binds and messages that the SMPP server has refused."""

import click

from portal.cli.groups import CommandError
from portal.cli.shell import CommandContext, CommandOutput, describe, format_table, format_timestamp, root_command
from portal.core import query_socket
from portal.core.clock import DAY_MS, now_ms
from portal.services.accounts import accounts, refused_binds, refused_pdus
from portal.services.accounts.accounts import Account
from portal.services.accounts.refusals import RETENTION_MS, RefusalGroup, escape_unprintable
from portal.services.accounts.refused_binds import UnknownBind
from portal.services.common.audit import SHELL
from portal.services.messages import all_refusals, refusal_remedies
from portal.services.messages.all_refusals import RefusalFilter

_UNKNOWN_SYSTEM_ID = "unknown_system_id"
_COLUMNS = ("account", "kind", "value", "count", "last_at", "text")
_UNKNOWN_COLUMNS = ("system_id", "value", "count", "last_at")
_UNKNOWN_HEADING = "Binds with a system_id that no account has:"


@root_command("refused", example="refused smpp-acme-1 --days 1")
@click.argument("account_name", metavar="[ACCOUNT]", required=False)
@click.option(
    "--days",
    type=click.IntRange(1, RETENTION_MS // DAY_MS),
    default=7,
    metavar="N",
    help="Of the last N days, at most 31 (7).",
)
@click.option("--pdus", is_flag=True, help="Its last refused PDUs, which the SMPP server has in memory.")
@click.option(
    "--keep-pdus", type=click.Choice(("on", "off")), help="Have them kept for a day, or not any more, and nothing else."
)
def _list_refused(
    context: CommandContext, *, account_name: str | None, days: int, pdus: bool, keep_pdus: str | None
) -> CommandOutput:
    if pdus or keep_pdus:
        if account_name is None:
            raise click.UsageError("PDUs are kept of one account: name it.")
        account = accounts.get_account(context.conn, account_name)
        return _keep_pdus(context, account, keep_pdus == "on") if keep_pdus else _list_pdus(context, account)
    now = now_ms()
    since = now - days * DAY_MS
    if account_name is not None:
        account = accounts.get_account(context.conn, account_name)
        explained = refusal_remedies.list_explained_refusals(context.conn, account, since)
        rows = [_refusal_to_dict(account.name, each.group, each.text) for each in explained]
        return CommandOutput(rows, _format_rows(rows, _COLUMNS))
    wanted = RefusalFilter(since, (now // DAY_MS + 1) * DAY_MS)
    rows = [
        _refusal_to_dict(each.name, group, refusal_remedies.describe_group(group))
        for each, group in all_refusals.iterate_all_refusals(context.conn, wanted)
    ]
    rows.sort(key=_get_latest, reverse=True)
    unknown_rows = [_unknown_bind_to_dict(each) for each in refused_binds.list_unknown_binds(context.conn, since)]
    text = _format_rows(rows, _COLUMNS)
    if unknown_rows:
        text += f"\n\n{_UNKNOWN_HEADING}\n{_format_rows(unknown_rows, _UNKNOWN_COLUMNS)}"
    return CommandOutput(sorted(rows + unknown_rows, key=_get_latest, reverse=True), text)


def _keep_pdus(context: CommandContext, account: Account, kept: bool) -> CommandOutput:
    refused_pdus.set_refused_pdus_kept(context.conn, SHELL, account, kept=kept)
    until = refused_pdus.get_kept_until(context.conn, account.id)
    return describe({"account": account.name, "kept_until": None if until is None else format_timestamp(until)})


def _list_pdus(context: CommandContext, account: Account) -> CommandOutput:
    question = {"ask": refused_pdus.REFUSED_PDUS_QUERY, "account_id": account.id}
    try:
        answer = query_socket.ask_smpp_server(context.config.data, question)
    except query_socket.SmppServerSilent:
        raise CommandError("the SMPP server isn't answering: what it has in memory can't be shown") from None
    rows = [{**each, "at": format_timestamp(each["at"])} for each in answer]
    blocks = [
        "\n".join(
            [f"{each['at']}  {each['command']}  {each['status']}  {each['address']}"]
            + [f"    {name}: {escape_unprintable(value)}" for name, value in each["fields"].items()]
        )
        for each in rows
    ]
    return CommandOutput(rows, "\n".join(blocks) or "none was refused in the last hour while they were kept")


def _get_latest(row: dict[str, object]) -> str:
    return str(row["last_at"])


def _format_rows(rows: list[dict[str, object]], columns: tuple[str, ...]) -> str:
    return format_table(columns, [[row[column] for column in columns] for row in rows])


def _refusal_to_dict(account: str, group: RefusalGroup, text: str) -> dict[str, object]:
    return {
        "account": account,
        "kind": "bind" if group.is_bind else "message",
        "reason": group.reason,
        "value": group.value,
        "count": group.count,
        "first_at": format_timestamp(group.first_at),
        "last_at": format_timestamp(group.last_at),
        "text": text,
    }


def _unknown_bind_to_dict(bind: UnknownBind) -> dict[str, object]:
    return {
        "account": None,
        "kind": "bind",
        "reason": _UNKNOWN_SYSTEM_ID,
        "value": bind.address,
        "count": bind.count,
        "first_at": format_timestamp(bind.first_at),
        "last_at": format_timestamp(bind.last_at),
        "text": "No account has this system_id.",
        "system_id": bind.system_id,
    }
