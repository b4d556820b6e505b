"""`sender …`: source addresses that an account's messages may carry."""

from pathlib import Path
from typing import Any

import click

from portal.cli.groups import CommandError
from portal.cli.shell import (
    CommandContext,
    CommandOutput,
    account_argument,
    add_group,
    format_table,
)
from portal.core.db import write_transaction
from portal.services.accounts.accounts import Account
from portal.services.common.addresses import normalize_address
from portal.services.common.audit import SHELL
from portal.services.senders import documents, senders
from portal.services.senders.senders import Sender

sender_group = add_group("sender")

_address_argument = click.argument("address", metavar="SENDER")
_comment_option = click.option("--comment", default="", metavar="T", help="What the customer reads.")


@sender_group.command("add", example="sender add smpp-acme-1 ACME --reason 'our brand' --document trademark.pdf")
@account_argument
@_address_argument
@click.option("--description", default="", metavar="T")
@click.option("--reason", default="", metavar="T", help="What it is for.")
@click.option(
    "--document",
    type=click.Path(readable=False, path_type=Path),
    metavar="FILE",
    help="What supports it: PDF, PNG or JPEG, at most 5 MB.",
)
@click.option("--approve", is_flag=True, help="And approve it at once.")
def _add_sender(
    context: CommandContext,
    account: Account,
    address: str,
    *,
    description: str,
    reason: str,
    document: Path | None,
    approve: bool,
) -> CommandOutput:
    """Ask for one."""
    details: dict[str, Any] = {"description": description, "reason": reason, "document": _read_document(document)}
    if not approve:
        return _sender_output(
            senders.add_sender(context.conn, SHELL, account, address, mail_keys=context.keys, **details)
        )
    # One that is approved at once was no request: no mails.
    with write_transaction(context.conn):
        added = senders.add_sender(context.conn, SHELL, account, address, **details)
        return _sender_output(senders.decide_sender(context.conn, SHELL, account, added.address, approve=True))


def _read_document(file: Path | None) -> bytes:
    if file is None:
        return b""
    with file.open("rb") as handle:
        content = handle.read(documents.MAX_DOCUMENT_BYTES + 1)
    if not content:
        raise documents.InvalidDocument()
    return content


@sender_group.command("approve", example="sender approve smpp-acme-1 ACME")
@account_argument
@_address_argument
@_comment_option
def _approve_sender(context: CommandContext, account: Account, address: str, *, comment: str) -> CommandOutput:
    """Allow one that waits, or that was refused."""
    return _decide_sender_request(context, account, address, comment, approve=True)


@sender_group.command("refuse", example="sender refuse smpp-acme-1 ACME --comment 'not your brand'")
@account_argument
@_address_argument
@_comment_option
def _refuse_sender(context: CommandContext, account: Account, address: str, *, comment: str) -> CommandOutput:
    """Refuse one, also later."""
    return _decide_sender_request(context, account, address, comment, approve=False)


def _decide_sender_request(
    context: CommandContext, account: Account, address: str, comment: str, *, approve: bool
) -> CommandOutput:
    sender = _get_sender(context, account, address)
    return _sender_output(
        senders.decide_sender(
            context.conn,
            SHELL,
            account,
            sender.address,
            approve=approve,
            comment=comment,
            mail_keys=context.keys,
        )
    )


@sender_group.command("disable", example="sender disable smpp-acme-1 ACME")
@account_argument
@_address_argument
def _disable_sender(context: CommandContext, account: Account, address: str) -> CommandOutput:
    """Refuse messages from one until it is enabled again."""
    return _set_sender_enabled(context, account, address, enabled=False)


@sender_group.command("enable", example="sender enable smpp-acme-1 ACME")
@account_argument
@_address_argument
def _enable_sender(context: CommandContext, account: Account, address: str) -> CommandOutput:
    """Allow one again that was disabled."""
    return _set_sender_enabled(context, account, address, enabled=True)


def _set_sender_enabled(context: CommandContext, account: Account, address: str, *, enabled: bool) -> CommandOutput:
    sender = _get_sender(context, account, address)
    return _sender_output(senders.set_sender_enabled(context.conn, SHELL, account, sender.id, enabled=enabled))


@sender_group.command("remove", example="sender remove smpp-acme-1 ACME")
@account_argument
@_address_argument
def _remove_sender(context: CommandContext, account: Account, address: str) -> CommandOutput:
    """Take one from the list."""
    sender = _get_sender(context, account, address)
    senders.remove_senders(context.conn, SHELL, account, [sender.id])
    return CommandOutput(_sender_to_dict(sender), f"{sender.address} was removed.")


@sender_group.command("document", example="sender document smpp-acme-1 ACME trademark.pdf")
@account_argument
@_address_argument
@click.argument("file", type=click.Path(readable=False, path_type=Path), metavar="FILE")
def _save_document(context: CommandContext, account: Account, address: str, file: Path) -> CommandOutput:
    """Write the document of one to a new file."""
    sender = _get_sender(context, account, address)
    content = documents.read_document(context.conn, sender.document) if sender.document else None
    if sender.document is None or content is None:
        raise CommandError(f"{sender.address} has no document.")
    with file.open("xb") as handle:
        handle.write(content)
    value = {"sender": sender.address, "type": sender.document.type, "size": sender.document.size}
    return CommandOutput(value, f"{sender.document.type.upper()}, {sender.document.size} bytes: {file}")


def _get_sender(context: CommandContext, account: Account, address: str) -> Sender:
    return senders.get_sender(context.conn, account, normalize_address(address.strip()))


@sender_group.command("list", example="sender list smpp-acme-1")
@account_argument
def _list_senders(context: CommandContext, account: Account) -> CommandOutput:
    """List them."""
    sender_list = senders.list_senders(context.conn, account.id)
    return CommandOutput([_sender_to_dict(each) for each in sender_list], _format_senders(sender_list))


def _sender_output(sender: Sender) -> CommandOutput:
    return CommandOutput(_sender_to_dict(sender), _format_senders([sender]))


def _sender_to_dict(sender: Sender) -> dict[str, object]:
    return {
        "sender": sender.address,
        "type": sender.type,
        "status": sender.status,
        "description": sender.description,
        "reason": sender.reason,
        "document": sender.document.type if sender.document else "",
        "comment": sender.comment,
    }


def _format_senders(sender_list: list[Sender]) -> str:
    rows = [_sender_to_dict(each) | {"status": senders.STATUS_LABELS[each.status]} for each in sender_list]
    return format_table(tuple(rows[0]) if rows else ("sender",), [list(each.values()) for each in rows])
