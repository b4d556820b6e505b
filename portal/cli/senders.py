"""`sender …`: source addresses that an account's messages may carry."""

import sqlite3
from pathlib import Path
from typing import Any

import click

from portal.cli.groups import PATH, CommandError
from portal.cli.shell import CommandContext, CommandOutput, add_group, fields_to_dict, list_rows, named_argument
from portal.core.db import write_transaction
from portal.services.accounts.accounts import Account
from portal.services.common.addresses import normalize_address
from portal.services.common.audit import SHELL
from portal.services.senders import documents, senders
from portal.services.senders.senders import Sender

_COLUMNS = ("sender", "type", "status", "description", "reason", "document", "comment")


def _get_sender(conn: sqlite3.Connection, account: Account, address: str) -> Sender:
    return senders.get_sender(conn, account, normalize_address(address.strip()))


sender_group = add_group("sender", sender=named_argument("SENDER", _get_sender))


@sender_group.command("add", example="sender add smpp-acme-1 ACME --reason 'our brand' --document trademark.pdf")
@click.argument("address", metavar="SENDER")
@click.option("--description", default="", metavar="T")
@click.option("--reason", default="", metavar="T", help="What it is for.")
@click.option("--document", type=PATH, metavar="FILE", help="What supports it: PDF, PNG or JPEG, at most 5 MB.")
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
    documents.scan_document(details["document"], context.config.documents.clamd)
    if not approve:
        asked_for = senders.add_sender(context.conn, SHELL, account, address, mail_keys=context.keys, **details)
        return _describe_senders(_sender_to_dict(asked_for))
    # One that is approved at once was no request: no mails.
    with write_transaction(context.conn):
        added = senders.add_sender(context.conn, SHELL, account, address, **details)
        approved = senders.decide_sender(context.conn, SHELL, account, added.address, approve=True)
    return _describe_senders(_sender_to_dict(approved))


def _read_document(file: Path | None) -> bytes:
    if file is None:
        return b""
    with file.open("rb") as handle:
        content = handle.read(documents.MAX_DOCUMENT_BYTES + 1)
    if not content:
        raise documents.InvalidDocument()
    return content


def _add_decision(name: str, help: str, example: str, *, approve: bool) -> None:
    @sender_group.command(name, help=help, example=f"sender {name} {example}")
    @click.option("--comment", default="", metavar="T", help="What the customer reads.")
    def decide(context: CommandContext, account: Account, sender: Sender, *, comment: str) -> CommandOutput:
        decided = senders.decide_sender(
            context.conn, SHELL, account, sender.address, approve=approve, comment=comment, mail_keys=context.keys
        )
        return _describe_senders(_sender_to_dict(decided))


_add_decision("approve", "Allow one that waits, or that was refused.", "smpp-acme-1 ACME", approve=True)
_add_decision("refuse", "Refuse one, also later.", "smpp-acme-1 ACME --comment 'not your brand'", approve=False)


def _add_switch(name: str, help: str, *, enabled: bool) -> None:
    @sender_group.command(name, help=help, example=f"sender {name} smpp-acme-1 ACME")
    def switch(context: CommandContext, account: Account, sender: Sender) -> CommandOutput:
        switched = senders.set_sender_enabled(context.conn, SHELL, account, sender.id, enabled=enabled)
        return _describe_senders(_sender_to_dict(switched))


_add_switch("disable", "Refuse messages from one until it is enabled again.", enabled=False)
_add_switch("enable", "Allow one again that was disabled.", enabled=True)


@sender_group.command("remove", example="sender remove smpp-acme-1 ACME")
def _remove_sender(context: CommandContext, account: Account, sender: Sender) -> CommandOutput:
    """Take one from the list."""
    senders.remove_senders(context.conn, SHELL, account, [sender.id])
    return CommandOutput(_sender_to_dict(sender), f"{sender.address} was removed.")


@sender_group.command("document", example="sender document smpp-acme-1 ACME trademark.pdf")
@click.argument("file", type=PATH, metavar="FILE")
def _save_document(context: CommandContext, account: Account, sender: Sender, file: Path) -> CommandOutput:
    """Write the document of one to a new file."""
    content = documents.read_document(context.conn, sender.document) if sender.document else None
    if sender.document is None or content is None:
        raise CommandError(f"{sender.address} has no document.")
    with file.open("xb") as handle:
        handle.write(content)
    value = {"sender": sender.address, "type": sender.document.type, "size": sender.document.size}
    return CommandOutput(value, f"{sender.document.type.upper()}, {sender.document.size} bytes: {file}")


@sender_group.command("list", example="sender list smpp-acme-1")
def _list_senders(context: CommandContext, account: Account) -> CommandOutput:
    """List them."""
    return _describe_senders([_sender_to_dict(each) for each in senders.list_senders(context.conn, account.id)])


def _sender_to_dict(sender: Sender) -> dict[str, object]:
    fields = fields_to_dict(sender, *_COLUMNS[1:])
    return {"sender": sender.address} | fields | {"document": sender.document.type if sender.document else ""}


def _describe_senders(value: dict[str, object] | list[dict[str, object]]) -> CommandOutput:
    return list_rows(value, _COLUMNS, lambda row: {"status": senders.STATUS_LABELS[str(row["status"])]})
