"""The messages that an account has sent: search, export, and the details of one."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import gsm0338, i18n
from portal.core.clock import now_ms
from portal.core.i18n import N_, _
from portal.services.accounts import session_records
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts, message_states
from portal.services.common.message_states import PTT_DESCRIPTIONS
from portal.services.history import history, refunds, search
from portal.services.history.deletion import SENT
from portal.services.history.history import MessageDetails, SentMessage, SentText
from portal.services.history.search import SearchQuery
from portal.services.messages import validation
from portal.services.messages.message_parts import MessagePart
from portal.services.prices import countries
from portal.services.routing import sending_delays
from portal.services.senders import senders
from portal.services.upstreams import obstacles
from portal.web.core import access, context, filters, htmx, live, paging, periods
from portal.web.messages import deletion_progress

blueprint = Blueprint("history", __name__)

_EXPORT_COLUMNS = "id;date;sender;receiver;ptt;operatorCode;descriptionDlr;tag;message".split(";")
_LIVE_ON, _LIVE_OFF = "on", "off"
_FILTER_FIELDS = ("sender", "recipient", "status", "text")
_QUERY_PARAMS = (*_FILTER_FIELDS, filters.LIVE_ARG)
_STATUS_LABELS = {
    search.DELIVERED: PTT_DESCRIPTIONS[message_states.PTT_NONE],
    search.UNDERWAY: PTT_DESCRIPTIONS[message_states.PTT_PENDING],
    search.SCHEDULED: N_("Scheduled"),
    search.FAILED: N_("Not delivered"),
}
_SUBUNIT_DISPLAY = 1  # SMPP 3.4, 5.3.2.1: displayed at once


class HistoryFilterForm(periods.PeriodForm):
    """The form of the list's filter."""

    sender = StringField(N_("Sender"))
    recipient = StringField(N_("Recipient"))
    status = SelectField(N_("Status"), validate_choice=False)
    text = StringField(N_("Words of the text"))


@context.once_per_request
def get_history_filter() -> filters.MessageFilter:
    """The filter in this request's query, parsed once."""
    statuses = {*search.STATUSES, *map(str, search.list_failure_codes())}
    parsed = filters.parse_message_filter(
        SearchQuery, _FILTER_FIELDS, number_fields=("recipient",), choices={"status": statuses}
    )
    # The results of a search stay in place, for each refresh would search again.
    switch, default = request.args.get(filters.LIVE_ARG), not parsed.is_active
    is_live = {_LIVE_ON: True, _LIVE_OFF: False}.get(switch or "", default)
    live_param = {filters.LIVE_ARG: _LIVE_ON if is_live else _LIVE_OFF} if is_live != default else {}
    return replace(parsed, params={**parsed.params, **live_param}, is_live=is_live)


def _is_newest_page() -> bool:
    return not any(request.args.get(each) for each in paging.PAGING_ARGS)


# --- pages


@blueprint.get("/accounts/<name>/history")
@access.account_access_required
def list_sent_messages(account: Account) -> ResponseReturnValue:
    """A page of the messages that the filter finds, newest first.

    Query: `period` (with `from` and `to`), `sender`, `recipient` (its first digits suffice), `status`, `text` (words,
    or how they begin), `live` (`on`, `off`), `lines` (25 or 100), and `before` or `after`, which turn the page.
    """
    history_filter = get_history_filter()
    return live.render_live_page(
        "messages/history/page.html",
        "history",
        account,
        filter=_build_filter_form(account, history_filter),
        message_filter=history_filter,
        senders=sorted({each.address for each in senders.list_senders(context.get_conn(), account.id)}),
        months=deletion_progress.get_retention_months(account),
    )


def _build_filter_form(account: Account, history_filter: filters.MessageFilter) -> HistoryFilterForm:
    form = HistoryFilterForm(request.args)
    form.status.choices = [
        SelectChoice("", _("Any")),
        *(SelectChoice(name, _(words)) for name, words in _STATUS_LABELS.items()),
        *_list_failure_choices(account, history_filter.search_query.status),
    ]
    form.status.data = history_filter.search_query.status
    filters.fill_filter_form(form, history_filter)
    return form


def _list_failure_choices(account: Account, status: str) -> list[SelectChoice]:
    """The reasons of failures, for the filter. There are many: they are offered only where failures are filtered, and
    only those that the account has had."""
    if status != search.FAILED and not status.isdecimal():
        return []
    reasons = search.list_account_failure_codes(context.get_conn(), account.id)
    if status.isdecimal():
        reasons[int(status)] = search.list_failure_codes()[int(status)]
    choices = [SelectChoice(str(code), _(words)) for code, words in reasons.items()]
    return sorted(choices, key=lambda choice: choice.label)


@blueprint.get("/accounts/<name>/history/<int:message_id>")
@access.account_access_required
def show_sent_message(account: Account, message_id: int) -> ResponseReturnValue:
    """The details of a message, and of the other segments of its text."""
    text = _hide_unreadable_text(history.get_sent_text_by_message_id(context.get_conn(), account.id, message_id))
    past_refunds = refunds.list_refunds(context.get_conn(), text)
    refunded = sum(each["amount"] for each in past_refunds)
    # What a message cost is given back once, in whole or for parts of it.
    is_operator, charged_count = access.get_current_user().is_operator, sum(each.price > 0 for each in text.messages)
    may_refund = is_operator and text.done_at is not None and len(past_refunds) < charged_count
    details = history.read_message_details(context.get_conn(), text)
    session_ids = {each.session_id for each in details.values() if each.session_id is not None}
    origins = session_records.find_smpp_session_summaries(context.get_conn(), account.id, session_ids)
    first = text.first_message
    return htmx.render_dialog(
        "messages/history/_message.html",
        account,
        title=_("Message"),
        tab="history",
        text=text,
        details=details,
        # None where one is no longer stored.
        origins={each: origins.get(each) for each in sorted(session_ids)},
        bind_types=session_records.BIND_TYPES,
        course=_build_course(account, text, details),
        was_never_sent=_was_never_sent(text, details),
        # Which carriers there are is the operators' business.
        shows_upstreams=is_operator,
        encoding=_(validation.get_encoding_label(first.data_coding)),
        is_flash=first.data_coding in gsm0338.FLASH_DATA_CODINGS or details[first.id].subunit == _SUBUNIT_DISPLAY,
        refunds=past_refunds,
        refunded=refunded,
        describe_status=_describe_message_status,
        describe_parts=_describe_delivered_parts,
        describe_part=_describe_part_status,
        country=countries.get_country_name(text.first_message.country),
        delete=access.may_change() and url_for("deletion.delete_messages", name=account.name, kind=SENT, id=text.id),
        refund=url_for("admin_balances.refund_message", message_id=text.id) if may_refund else "",
    )


def _describe_delivered_parts(details: MessageDetails) -> str:
    """How many parts of a message that was cut on its way have arrived; nothing of one that wasn't."""
    delivered = sum(each.state == message_states.DELIVERED for each in details.parts)
    return _format_delivered(delivered, len(details.parts)) if details.parts else ""


def _format_delivered(count: int, total: int) -> str:
    # In English they are the same.
    return i18n.ngettext(
        "%(num)s of %(total)s parts delivered", "%(num)s of %(total)s parts delivered", count, total=total
    )


def _describe_part_status(part: MessagePart) -> tuple[str, str]:
    """The label of a part's status, and the kind of its badge."""
    if part.state is None:
        return _("Not sent"), "info"
    kind = {message_states.PTT_NONE: "ok", message_states.PTT_PENDING: "info"}.get(part.ptt, "err")
    return _(PTT_DESCRIPTIONS[part.ptt]), kind


@dataclass(frozen=True, slots=True)
class CourseStep:
    """A step in what became of a text: its name, when it was (milliseconds) or words in place of that, and a note.

    `is_open`: it is still to come.
    """

    name: str
    at: int | None = None
    words: str = ""
    note: str = ""
    is_open: bool = False


def _build_course(account: Account, text: SentText, details: dict[int, MessageDetails]) -> list[CourseStep]:
    """What became of a text, from its submit to its end."""
    was_taken = not (_is_refused_here(text) and _was_never_sent(text, details))
    course = [CourseStep(_("Accepted") if was_taken else _("Submitted at"), text.submitted_at)]
    if text.scheduled_at is not None:
        course.append(CourseStep(_("Scheduled for"), text.scheduled_at))
    if queued := {each.id: details[each.id] for each in text.messages if each.is_queued}:
        course.append(_describe_waiting(account, queued))
    return [*course, _describe_sending(text, details), _describe_end(text, details)]


def _is_refused_here(text: SentText) -> bool:
    return all(each.ptt in (message_states.PTT_NO_CREDIT, message_states.PTT_BLACKLISTED) for each in text.messages)


def _was_never_sent(text: SentText, details: dict[int, MessageDetails]) -> bool:
    """Whether it has ended before any upstream got it."""
    if text.scheduled_at is not None and text.done_at is not None and text.done_at < text.scheduled_at:
        return True
    # An upstream may refuse for missing credits or a blacklisted number, too.
    if any(each.upstream_status is not None for each in details.values()):
        return False
    nobody_had_it = not any(each.is_simulated or each.upstream_name for each in details.values())
    return _is_refused_here(text) or (text.done_at is not None and nobody_had_it)


def _describe_waiting(account: Account, queued: Mapping[int, MessageDetails]) -> CourseStep:
    """How messages, by their ids, wait for an upstream: what it said of them is for operators."""
    held = [each for each in queued.values() if each.attempts is not None]
    tried = max(held, key=lambda each: each.attempts or 0, default=None)
    words = []
    if tried is not None:
        if tried.attempts:
            words.append(i18n.ngettext("Tried %(num)s time", "Tried %(num)s times", tried.attempts))
        if access.get_current_user().is_operator:
            words.append(_(tried.error) if tried.error else "")
    quiet_end = sending_delays.find_quiet_end(context.get_conn(), min(queued))
    if account.is_on_hold:
        words.append(_("The account is on hold"))
    elif quiet_end is not None:
        words.append(_("Quiet hours: it waits until %(time)s", time=_format_exact(quiet_end)))
    elif obstacles.list_obstacles(context.get_conn()):
        words.append(_("Messages aren’t sent on at this moment"))
    elif tried is None or (tried.error and not tried.attempts):
        # That operators hold it, or have moved it, is told to them alone.
        words = words or [_("It waits for its turn")]
    elif not tried.attempts:
        words.append(_("It waits behind an earlier message to this number"))
    elif tried.not_before is not None and tried.not_before > now_ms():
        words.append(_("next time at %(time)s", time=_format_exact(tried.not_before)))
    return CourseStep(_("Queued"), words=" · ".join(filter(None, words)), is_open=True)


def _describe_sending(text: SentText, details: dict[int, MessageDetails]) -> CourseStep:
    name = _("Sent on")
    if _was_never_sent(text, details):
        return CourseStep(name, words=_("Never"))
    if text.is_scheduled or any(each.is_queued for each in text.messages):
        return CourseStep(name, words=_("Not yet"), is_open=True)
    sent_at = [each.sent_at for each in details.values() if each.sent_at is not None]
    if len(sent_at) == len(text.messages):
        return CourseStep(name, max(sent_at))
    if all(each.is_simulated for each in details.values()):
        return CourseStep(name, words=_("At its date") if text.scheduled_at is not None else _("At once"))
    if text.done_at is None:
        return CourseStep(name, words=_("On its way, not accepted yet"), is_open=True)
    was_answered = any(each.upstream_status not in (None, message_states.NO_ANSWER) for each in details.values())
    return CourseStep(name, words=_("Not accepted") if was_answered else _("Not answered"))


_END_NAMES = {
    message_states.DELIVERED: N_("Delivered"),
    message_states.EXPIRED: N_("Expired"),
    message_states.DELETED: N_("Cancelled"),
}
_OTHER_END_NAME = N_("Failed")


def _describe_end(text: SentText, details: dict[int, MessageDetails]) -> CourseStep:
    if text.done_at is None:
        expires_at = details[text.first_message.id].expires_at
        note = _("tried until %(time)s", time=_format_exact(expires_at)) if expires_at else ""
        return CourseStep(_("Final status"), words=_("Not yet"), note=note, is_open=True)
    states = {each.state for each in text.messages}
    name = _(_END_NAMES.get(states.pop(), _OTHER_END_NAME)) if len(states) == 1 else _("Final status")
    note = ""
    if not _was_never_sent(text, details):
        seconds = (text.done_at - (text.scheduled_at or text.submitted_at)) / 1000
        note = _("after %(seconds)s s", seconds=i18n.format_number(round(seconds, 1)))
    return CourseStep(name, text.done_at, note=note)


def _format_exact(at: int) -> str:
    return i18n.format_date_time(at, context.get_config().timezone)


def _list_context(account: Account) -> dict[str, Any]:
    history_filter = get_history_filter()
    search_page = partial(search.search_texts, context.get_conn(), account.id, history_filter.search_query)
    values = filters.build_message_list_context(
        history_filter,
        search_page,
        lambda result: [_hide_unreadable_text(each) for each in result.texts],
        _QUERY_PARAMS,
    )
    return values | {"is_newest": _is_newest_page(), "describe_status": _describe_message_status}


def _describe_message_status(text: SentText | SentMessage) -> tuple[str, str]:
    """The label of a status, and the kind of its badge."""
    if text.is_scheduled:
        return _("Scheduled"), "info"
    if text.is_queued:
        return _("Queued"), "info"
    if text.ptt is not None:
        kind = {message_states.PTT_NONE: "ok", message_states.PTT_PENDING: "info"}.get(text.ptt, "err")
        return _(text.ptt_description), kind
    assert isinstance(text, SentText)
    failed = any(each.ptt not in (message_states.PTT_NONE, message_states.PTT_PENDING) for each in text.messages)
    return _format_delivered(text.delivered_count, text.segment_count), "err" if failed else "info"


def _hide_unreadable_text(text: SentText) -> SentText:
    """A text without what this user may not see."""
    if not access.may_read_texts():
        for each in text.messages:
            each.hide_text()
    return text


live.register_live_page(
    "history",
    deletion_progress.DELETION_PROGRESS_PART,
    live.LiveFragment(
        "messages/history/_list.html",
        _list_context,
        lambda account: history.read_queue_mark(context.get_conn(), account.id),
        is_frozen=lambda: not get_history_filter().is_live or not _is_newest_page(),
    ),
)


# --- files


@blueprint.get("/accounts/<name>/history.csv")
@blueprint.get("/accounts/<name>/history.jsonl")
@access.account_access_required
def download_history(account: Account) -> ResponseReturnValue:
    """What the same query shows in the page, newest first; see `filters.stream_messages`.

    One line per message, also for segmented texts: its id is the one that the client was given.
    """
    if get_history_filter().has_errors:
        return filters.redirect_to_list(url_for(".list_sent_messages", name=account.name))
    texts = search.iterate_texts(context.open_stream_conn(), account.id, get_history_filter().search_query)
    return filters.stream_messages(
        f"{account.name}-history",
        _EXPORT_COLUMNS,
        _iterate_messages(texts),
        _to_csv_row,
        lambda each: {"parts": each.parts, "credits": credit_amounts.credits_to_json_number(each.price)},
    )


def _iterate_messages(texts: Iterable[SentText]) -> Iterator[SentMessage]:
    for text in map(_hide_unreadable_text, texts):
        yield from sorted(text.messages, key=lambda message: -message.id)


def _to_csv_row(message: SentMessage) -> list[object]:
    return [
        message.id,
        i18n.format_iso8601(message.submitted_at),
        message.source,
        message.destination,
        message.ptt,
        "",
        _(message.ptt_description),
        "",
        message.content,
    ]
