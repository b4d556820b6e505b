"""`sender …`: source addresses that an account's messages may carry."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from portal.cli.shell import (
    CommandContext,
    CommandError,
    CommandOutput,
    Commands,
    add_account_command,
    add_command_group,
    format_table,
)
from portal.core.db import write_transaction
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.senders import documents, sender_requests, senders
from portal.services.senders.senders import Sender


def register_commands(commands: "Commands[ArgumentParser]") -> None:
    sender = add_command_group(commands, "sender", "source addresses that an account's messages may carry")
    add = add_account_command(sender, "add", _add_sender, "ask for one")
    add.add_argument("sender", metavar="SENDER")
    add.add_argument("--description", default="", metavar="T")
    add.add_argument("--reason", default="", metavar="T", help="what it is for")
    add.add_argument("--document", type=Path, metavar="FILE", help="what supports it: PDF, PNG or JPEG, at most 5 MB")
    add.add_argument("--approve", action="store_true", help="and approve it at once")
    for name, run, help in (
        ("approve", _approve_sender, "allow one that waits, or that was refused"),
        ("refuse", _refuse_sender, "refuse one, also later"),
    ):
        decide = add_account_command(sender, name, run, help)
        decide.add_argument("sender", metavar="SENDER")
        decide.add_argument("--comment", default="", metavar="T", help="what the customer reads")
    for name, run, help in (
        ("disable", _disable_sender, "refuse messages from one until it is enabled again"),
        ("enable", _enable_sender, "allow one again that was disabled"),
        ("remove", _remove_sender, "take one from the list"),
    ):
        add_account_command(sender, name, run, help).add_argument("sender", metavar="SENDER")
    document = add_account_command(sender, "document", _save_document, "write the document of one to a file")
    document.add_argument("sender", metavar="SENDER")
    document.add_argument("file", type=Path, metavar="FILE", help="a new one")
    add_account_command(sender, "list", _list_senders, "list them")


def _add_sender(context: CommandContext, args: Namespace) -> CommandOutput:
    account = accounts.get_account(context.conn, args.account)
    details = {"description": args.description, "reason": args.reason, "document": _read_document(args.document)}
    if not args.approve:
        added = sender_requests.request_sender(context.conn, context.keys, SHELL, account, args.sender, **details)
        return CommandOutput(_sender_to_dict(added), _format_senders([added]))
    # One that is approved at once was no request: no mails.
    with write_transaction(context.conn):
        added = senders.add_sender(context.conn, SHELL, account, args.sender, **details)
        added = senders.decide_sender(context.conn, SHELL, account, added.address, approve=True)
    return CommandOutput(_sender_to_dict(added), _format_senders([added]))


def _read_document(file: Path | None) -> bytes:
    if file is None:
        return b""
    with file.open("rb") as handle:
        content = handle.read(documents.MAX_DOCUMENT_BYTES + 1)
    if not content:
        raise documents.InvalidDocument()
    return content


def _approve_sender(context: CommandContext, args: Namespace) -> CommandOutput:
    return _decide_sender_request(context, args, approve=True)


def _refuse_sender(context: CommandContext, args: Namespace) -> CommandOutput:
    return _decide_sender_request(context, args, approve=False)


def _decide_sender_request(context: CommandContext, args: Namespace, *, approve: bool) -> CommandOutput:
    account, sender = _get_account_and_sender(context, args)
    decided = sender_requests.decide_sender_request(
        context.conn, context.keys, SHELL, account, sender.address, approve=approve, comment=args.comment
    )
    return CommandOutput(_sender_to_dict(decided), _format_senders([decided]))


def _disable_sender(context: CommandContext, args: Namespace) -> CommandOutput:
    return _set_sender_enabled(context, args, enabled=False)


def _enable_sender(context: CommandContext, args: Namespace) -> CommandOutput:
    return _set_sender_enabled(context, args, enabled=True)


def _set_sender_enabled(context: CommandContext, args: Namespace, *, enabled: bool) -> CommandOutput:
    account, sender = _get_account_and_sender(context, args)
    switched = senders.set_sender_enabled(context.conn, SHELL, account, sender.id, enabled=enabled)
    return CommandOutput(_sender_to_dict(switched), _format_senders([switched]))


def _remove_sender(context: CommandContext, args: Namespace) -> CommandOutput:
    account, sender = _get_account_and_sender(context, args)
    senders.remove_senders(context.conn, SHELL, account, [sender.id])
    return CommandOutput(_sender_to_dict(sender), f"{sender.address} was removed.")


def _save_document(context: CommandContext, args: Namespace) -> CommandOutput:
    _, sender = _get_account_and_sender(context, args)
    content = documents.read_document(context.conn, sender.document) if sender.document else None
    if sender.document is None or content is None:
        raise CommandError(f"{sender.address} has no document.")
    with args.file.open("xb") as handle:
        handle.write(content)
    value = {"sender": sender.address, "type": sender.document.type, "size": sender.document.size}
    return CommandOutput(value, f"{sender.document.type.upper()}, {sender.document.size} bytes: {args.file}")


def _get_account_and_sender(context: CommandContext, args: Namespace) -> tuple[Account, Sender]:
    account = accounts.get_account(context.conn, args.account)
    return account, senders.get_sender(context.conn, account, args.sender.strip().removeprefix("+"))


def _list_senders(context: CommandContext, args: Namespace) -> CommandOutput:
    sender_list = senders.list_senders(context.conn, accounts.get_account(context.conn, args.account).id)
    return CommandOutput([_sender_to_dict(each) for each in sender_list], _format_senders(sender_list))


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
    return format_table(
        tuple(_sender_to_dict(sender_list[0])) if sender_list else ("sender",),
        [list(_sender_to_dict(each).values()) for each in sender_list],
    )
