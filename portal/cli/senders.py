"""`sender …`: source addresses that an account's messages may carry."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from portal.cli.shell import (
    Answer,
    Commands,
    Failure,
    Shell,
    account_command,
    group,
    table,
)
from portal.core.db import immediate
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.senders import documents, sender_requests, senders
from portal.services.senders.senders import Sender


def register(commands: "Commands[ArgumentParser]") -> None:
    sender = group(commands, "sender", "source addresses that an account's messages may carry")
    add = account_command(sender, "add", _add_sender, "ask for one")
    add.add_argument("sender", metavar="SENDER")
    add.add_argument("--description", default="", metavar="T")
    add.add_argument("--reason", default="", metavar="T", help="what it is for")
    add.add_argument("--document", type=Path, metavar="FILE", help="what supports it: PDF, PNG or JPEG, at most 5 MB")
    add.add_argument("--approve", action="store_true", help="and approve it at once")
    for name, run, help in (
        ("approve", _approve, "allow one that waits, or that was refused"),
        ("refuse", _refuse, "refuse one, also later"),
    ):
        decide = account_command(sender, name, run, help)
        decide.add_argument("sender", metavar="SENDER")
        decide.add_argument("--comment", default="", metavar="T", help="what the customer reads")
    for name, run, help in (
        ("disable", _disable_sender, "refuse messages from one until it is enabled again"),
        ("enable", _enable_sender, "allow one again that was disabled"),
        ("remove", _remove_sender, "take one from the list"),
    ):
        account_command(sender, name, run, help).add_argument("sender", metavar="SENDER")
    document = account_command(sender, "document", _document, "write the document of one to a file")
    document.add_argument("sender", metavar="SENDER")
    document.add_argument("file", type=Path, metavar="FILE", help="a new one")
    account_command(sender, "list", _list_senders, "list them")


def _add_sender(shell: Shell, args: Namespace) -> Answer:
    account = accounts.by_name(shell.conn, args.account)
    said = {"description": args.description, "reason": args.reason, "document": _read(args.document)}
    if not args.approve:
        added = sender_requests.ask(shell.conn, shell.keys, SHELL, account, args.sender, **said)
        return Answer(_sender(added), _senders([added]))
    # Whoever approves it at once has asked nobody: there is nothing to tell.
    with immediate(shell.conn):
        added = senders.add(shell.conn, SHELL, account, args.sender, **said)
        added = senders.decide(shell.conn, SHELL, account, added.address, approve=True)
    return Answer(_sender(added), _senders([added]))


def _read(file: Path | None) -> bytes:
    if file is None:
        return b""
    with file.open("rb") as handle:
        content = handle.read(documents.MOST_BYTES + 1)
    if not content:
        raise documents.NotADocument()
    return content


def _approve(shell: Shell, args: Namespace) -> Answer:
    return _decide(shell, args, approve=True)


def _refuse(shell: Shell, args: Namespace) -> Answer:
    return _decide(shell, args, approve=False)


def _decide(shell: Shell, args: Namespace, *, approve: bool) -> Answer:
    account, sender = _named(shell, args)
    decided = sender_requests.decide(
        shell.conn, shell.keys, SHELL, account, sender.address, approve=approve, comment=args.comment
    )
    return Answer(_sender(decided), _senders([decided]))


def _disable_sender(shell: Shell, args: Namespace) -> Answer:
    return _switch_sender(shell, args, on=False)


def _enable_sender(shell: Shell, args: Namespace) -> Answer:
    return _switch_sender(shell, args, on=True)


def _switch_sender(shell: Shell, args: Namespace, *, on: bool) -> Answer:
    account, sender = _named(shell, args)
    switched = senders.switch(shell.conn, SHELL, account, sender.id, on=on)
    return Answer(_sender(switched), _senders([switched]))


def _remove_sender(shell: Shell, args: Namespace) -> Answer:
    account, sender = _named(shell, args)
    senders.remove(shell.conn, SHELL, account, [sender.id])
    return Answer(_sender(sender), f"{sender.address} was removed.")


def _document(shell: Shell, args: Namespace) -> Answer:
    _, sender = _named(shell, args)
    content = documents.content(shell.conn, sender.document) if sender.document else None
    if sender.document is None or content is None:
        raise Failure(f"{sender.address} has no document.")
    with args.file.open("xb") as handle:
        handle.write(content)
    value = {"sender": sender.address, "type": sender.document.type, "size": sender.document.size}
    return Answer(value, f"{sender.document.type.upper()}, {sender.document.size} bytes: {args.file}")


def _named(shell: Shell, args: Namespace) -> tuple[Account, Sender]:
    account = accounts.by_name(shell.conn, args.account)
    return account, senders.by_address(shell.conn, account, args.sender.strip().removeprefix("+"))


def _list_senders(shell: Shell, args: Namespace) -> Answer:
    found = senders.of_account(shell.conn, accounts.by_name(shell.conn, args.account).id)
    return Answer([_sender(each) for each in found], _senders(found))


def _sender(sender: Sender) -> dict[str, object]:
    return {
        "sender": sender.address,
        "type": sender.type,
        "status": sender.status,
        "description": sender.description,
        "reason": sender.reason,
        "document": sender.document.type if sender.document else "",
        "comment": sender.comment,
    }


def _senders(found: list[Sender]) -> str:
    return table(tuple(_sender(found[0])) if found else ("sender",), [list(_sender(each).values()) for each in found])
