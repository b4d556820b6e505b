"""`ip …`: addresses from which an account's clients may bind."""

import click

from portal.cli.shell import (
    CommandContext,
    CommandOutput,
    add_group,
    format_timestamp,
    list_rows,
    parse_duration,
)
from portal.core.clock import now_ms
from portal.services.accounts import allowed_ips
from portal.services.accounts.accounts import Account
from portal.services.accounts.allowed_ips import AllowedIP
from portal.services.common.audit import SHELL

ip_group = add_group("ip")

_network_argument = click.argument("network", metavar="IP|CIDR")


@ip_group.command("add", example="ip add smpp-acme-1 203.0.113.0/28 --label office --expires 8h")
@_network_argument
@click.option("--label", default="", metavar="T")
@click.option("--expires", type=parse_duration, metavar="8h", help="Good for so long; without it, until removed.")
def _add_allowed_ip(
    context: CommandContext, account: Account, network: str, *, label: str, expires: int | None
) -> CommandOutput:
    """Authorise an address or a range."""
    entry = allowed_ips.add_allowed_ip(
        context.conn,
        SHELL,
        account,
        network,
        label=label,
        expires_at=None if expires is None else now_ms() + expires,
        limit=context.config.limits.ips_per_account,
    )
    return _describe_allowed_ips(_allowed_ip_to_dict(entry))


@ip_group.command("remove", example="ip remove smpp-acme-1 203.0.113.0/28")
@_network_argument
def _remove_allowed_ip(context: CommandContext, account: Account, network: str) -> CommandOutput:
    """Take one off the list: sessions that only it allowed are unbound."""
    entry = allowed_ips.get_allowed_ip_by_network(context.conn, account.id, network)
    removed_entry = allowed_ips.remove_allowed_ip(context.conn, SHELL, account, entry.id)
    return CommandOutput(_allowed_ip_to_dict(removed_entry), f"{removed_entry.network} removed")


@ip_group.command("list", example="ip list smpp-acme-1")
def _list_allowed_ips(context: CommandContext, account: Account) -> CommandOutput:
    """List them."""
    return _describe_allowed_ips(
        [_allowed_ip_to_dict(each) for each in allowed_ips.list_allowed_ips(context.conn, account.id)]
    )


def _allowed_ip_to_dict(entry: AllowedIP) -> dict[str, object]:
    return {
        "id": entry.id,
        "network": entry.network,
        "label": entry.label,
        "expires_at": format_timestamp(entry.expires_at),
    }


def _describe_allowed_ips(value: dict[str, object] | list[dict[str, object]]) -> CommandOutput:
    return list_rows(value, ("network", "expires", "label"), lambda row: {"expires": row["expires_at"] or "never"})
