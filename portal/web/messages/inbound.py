"""The messages that an account has received (MO): search, export, and the details of one."""

from functools import partial
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_, _
from portal.services.accounts.accounts import Account
from portal.services.history.deletion import RECEIVED
from portal.services.messages import blacklist, inbound, inbound_numbers, validation
from portal.services.messages.inbound import InboundMessage, InboundQuery
from portal.web.core import access, context, filters, htmx, live, periods
from portal.web.core.filters import MessageFilter
from portal.web.messages import deletion_progress

blueprint = Blueprint("inbound", __name__)

_EXPORT_COLUMNS = "id;date;sender;receiver;keyword;status;statusDate;encoding;udh;message".split(";")
_FILTER_FIELDS = ("sender", "recipient", "keyword", "state", "text")
# The label of a state, and the kind of its badge.
_STATE_BADGES = {
    inbound.DELIVERED: (N_("Accepted by a client"), "ok"),
    inbound.WAITING: (N_("Waits for a client"), "info"),
    inbound.GIVEN_UP: (N_("Given up"), "err"),
    inbound.UNKNOWN: (N_("Unknown"), ""),
}


class InboundFilterForm(periods.PeriodForm):
    """The form of the list's filter."""

    sender = StringField(N_("Sender"))
    recipient = StringField(N_("Sent to"))
    keyword = StringField(N_("Keyword"))
    state = SelectField(N_("Status"), validate_choice=False)
    text = StringField(N_("Words of the text"))


@context.once_per_request
def get_inbound_filter() -> MessageFilter:
    """The filter in this request's query, parsed once."""
    choices = {"state": inbound.DELIVERY_STATES}
    return filters.parse_message_filter(
        InboundQuery, _FILTER_FIELDS, number_fields=("sender", "recipient"), choices=choices
    )


# --- pages


@blueprint.get("/accounts/<name>/received")
@access.account_access_required
def list_received_messages(account: Account) -> ResponseReturnValue:
    """A page of the messages that the filter finds, newest first.

    Query: `period` (with `from` and `to`), `sender` and `recipient` (their first digits suffice), `keyword`, `state`,
    `text` (words, or how they begin), `lines` (25 or 100), and `before` or `after`, which turn the page.
    """
    inbound_filter = get_inbound_filter()
    numbers = inbound_numbers.list_inbound_numbers(context.get_conn(), account.id)
    return live.render_live_page(
        "messages/inbound/page.html",
        "received",
        account,
        filter=_build_filter_form(inbound_filter),
        message_filter=inbound_filter,
        months=deletion_progress.get_retention_months(account),
        numbers=sorted({each.number for each in numbers}),
        keywords=sorted({each.keyword for each in numbers if each.keyword}),
    )


def _build_filter_form(inbound_filter: MessageFilter) -> InboundFilterForm:
    form = InboundFilterForm(request.args)
    form.state.choices = [
        SelectChoice("", _("Any")),
        *(SelectChoice(each, _(_STATE_BADGES[each][0])) for each in _STATE_BADGES),
    ]
    form.state.data = inbound_filter.search_query.state
    filters.fill_filter_form(form, inbound_filter)
    return form


@blueprint.get("/accounts/<name>/received/<int:received_id>")
@access.account_access_required
def show_received_message(account: Account, received_id: int) -> ResponseReturnValue:
    """The details of a message."""
    conn = context.get_conn()
    message = _hide_unreadable_text(inbound.get_inbound_message(conn, account.id, received_id))
    attempts, next_at = inbound.get_delivery_attempts(conn, account.id, message)
    blacklist_entries = blacklist.find_blacklist_entries(conn, account.id, [message.source])
    return htmx.render_dialog(
        "messages/inbound/_message.html",
        account,
        title=_("Message"),
        tab="history",
        message=message,
        describe_status=_describe_message_status,
        delete=access.may_change()
        and url_for("deletion.delete_messages", name=account.name, kind=RECEIVED, id=message.id),
        encoding=_(validation.get_encoding_label(message.data_coding)),
        attempts=attempts,
        next_at=next_at,
        given_up_at=message.received_at + validation.DELIVERY_VALIDITY_MS,
        listed=blacklist_entries[0] if blacklist_entries else None,
        blacklist=url_for("blacklist.show_blacklist", name=account.name, q=message.source),
    )


# --- files


@blueprint.get("/accounts/<name>/received.csv")
@blueprint.get("/accounts/<name>/received.jsonl")
@access.account_access_required
def download_received(account: Account) -> ResponseReturnValue:
    """What the same query shows in the page, newest first; see `filters.stream_messages`."""
    inbound_filter = get_inbound_filter()
    if inbound_filter.has_errors:
        return filters.redirect_to_list(url_for(".list_received_messages", name=account.name))
    messages = inbound.iterate_inbound_messages(context.open_stream_conn(), account.id, inbound_filter.search_query)
    readable = map(_hide_unreadable_text, messages)
    return filters.stream_messages(f"{account.name}-received", _EXPORT_COLUMNS, readable, _to_csv_row)


def _hide_unreadable_text(message: InboundMessage) -> InboundMessage:
    """A message without what this user may not see."""
    return message if access.may_read_texts() else message.without_text()


def _to_csv_row(message: InboundMessage) -> list[object]:
    return [
        message.id,
        i18n.format_iso8601(message.received_at),
        message.source,
        message.destination,
        message.keyword,
        message.state,
        i18n.format_iso8601(message.ended_at) if message.ended_at else "",
        message.data_coding,
        message.udh.hex() if message.udh else "",
        message.content,
    ]


# --- parts of the page


def _list_context(account: Account) -> dict[str, Any]:
    inbound_filter = get_inbound_filter()
    search_page = partial(inbound.search_inbound_messages, context.get_conn(), account.id, inbound_filter.search_query)
    values = filters.build_message_list_context(
        inbound_filter,
        search_page,
        lambda result: [_hide_unreadable_text(each) for each in result.messages],
        _FILTER_FIELDS,
    )
    return values | {"describe_status": _describe_message_status}


def _describe_message_status(message: InboundMessage) -> tuple[str, str]:
    """The label of a delivery state, and the kind of its badge."""
    label, kind = _STATE_BADGES[message.state]
    return _(label), kind


live.register_live_page(
    "received",
    deletion_progress.DELETION_PROGRESS_PART,
    live.LiveFragment(
        "messages/inbound/_list.html",
        _list_context,
        lambda account: inbound.read_inbound_change_counters(context.get_conn(), account.id),
        # What was found by words stays in place, for each refresh would read all texts again.
        is_frozen=lambda: "text" in get_inbound_filter().params,
    ),
    tab="history",
)
