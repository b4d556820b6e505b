"""`request …`: what customers ask operators for."""

import sqlite3

import click

from portal.cli.shell import (
    CommandContext,
    CommandOutput,
    add_group,
    fields_to_dict,
    format_timestamp,
    list_rows,
    named_argument,
)
from portal.core.i18n import gettext
from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.messages import account_requests
from portal.services.messages.account_requests import AccountRequest

_COLUMNS = ("id", "asked_at", "account", "text", "note", "asked_by", "answer", "comment")


def _get_request(conn: sqlite3.Connection, text: str) -> AccountRequest:
    if not (text.isascii() and text.isdigit()):
        raise account_requests.NoSuchRequest(id=text)
    return account_requests.get_request(conn, int(text))


request_group = add_group("request", request=named_argument("REQUEST", _get_request))


@request_group.command("list", example="request list --account smpp-acme-1 --all")
@click.option("--account", "account_name", metavar="NAME", help="Those of this account.")
@click.option("--all", "shows_all", is_flag=True, help="Those that were answered, too.")
def _list_requests(context: CommandContext, *, account_name: str | None, shows_all: bool) -> CommandOutput:
    """List what waits for an answer, newest first."""
    account_id = accounts.get_account(context.conn, account_name).id if account_name else None
    listed = account_requests.list_requests(context.conn, account_id)
    return _describe_requests([_request_to_dict(each) for each in listed if shows_all or not each.answer])


def _add_answer(name: str, help: str, example: str, *, done: bool) -> None:
    @request_group.command(name, help=help, example=f"request {name} {example}")
    @click.option("--comment", default="", metavar="T", help="What the customer reads.")
    def answer(context: CommandContext, request: AccountRequest, *, comment: str) -> CommandOutput:
        answered = account_requests.answer_request(
            context.conn, SHELL, request.id, done=done, comment=comment, mail_keys=context.keys
        )
        return _describe_requests(_request_to_dict(answered))


_add_answer("done", "Say that one is done; it changes nothing else, and who has asked gets a mail.", "7", done=True)
_add_answer("decline", "Decline one; who has asked gets a mail.", "7 --comment 'from next month on'", done=False)


def _request_to_dict(request: AccountRequest) -> dict[str, object]:
    return {
        **fields_to_dict(request, "id", "customer", "account", "subject"),
        "value": request.value or None,
        "text": request.describe(),
        "note": request.note,
        "asked_at": format_timestamp(request.asked_at),
        "asked_by": request.asked_by,
        "answer": request.answer or None,
        "comment": request.comment,
        "answered_at": format_timestamp(request.answered_at),
        "answered_by": request.answered_by,
    }


def _describe_requests(value: dict[str, object] | list[dict[str, object]]) -> CommandOutput:
    return list_rows(
        value,
        _COLUMNS,
        lambda row: {"answer": gettext(account_requests.ANSWER_LABELS[str(row["answer"] or "")])},
    )
