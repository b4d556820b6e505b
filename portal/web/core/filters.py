"""What lists of messages, sent and received, have in common: the filter in an address, a page of results, files."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

from flask import request
from flask.typing import ResponseReturnValue

from portal.services.common import ids
from portal.services.common.errors import Refused
from portal.services.common.periods import ALL
from portal.services.history.history import SentMessage
from portal.services.messages.inbound import InboundMessage
from portal.services.prices import countries
from portal.web.core import access, context, downloads, forms, htmx, paging, periods
from portal.web.core.paging import LINES_ARG

LIVE_ARG = "live"
_MAX_FIELD_LENGTH = 100


@dataclass(frozen=True)
class MessageFilter:
    """What a list of messages is restricted to: a period, a query, and the errors in what was asked for.

    `params` are the arguments of the query of its address; `is_live`: new messages appear as they come.
    """

    params: Mapping[str, str]
    period_param: periods.PeriodParam
    search_query: Any
    errors: Sequence[Refused]
    is_live: bool = True

    @property
    def query_string(self) -> str:
        return self.query_string_with()

    def page_query_string(self, position: str) -> str:
        """The query for another page: `position` is `before=…` or `after=…`."""
        return "&".join(each for each in (self.query_string, position) if each)

    def query_string_with(self, **changed: str) -> str:
        """The query for the same, with something else instead."""
        return urlencode({name: value for name, value in {**self.params, **changed}.items() if value})

    @property
    def is_active(self) -> bool:
        """Whether it leaves anything out."""
        return any(name not in (LINES_ARG, LIVE_ARG) for name in self.params)

    @property
    def has_errors(self) -> bool:
        """Whether the form says what is wrong with something that was asked for."""
        return bool(self.period_param.error or self.errors)


def parse_message_filter(
    build_query: Callable[..., Any],
    field_names: Sequence[str],
    *,
    number_fields: Collection[str],
    choices: Mapping[str, Collection[str]],
) -> MessageFilter:
    """Read this request's query.

    Args:
        build_query: makes the search of the period and of each field by its name; what is invalid, as the filter's
            `errors` say, is empty.
        field_names: of its fields; `text` is empty for who may not read texts: they could guess them, word by word.
        number_fields: those of them that are numbers, or the digits that they begin with.
        choices: what others may be; anything else is nothing.
    """
    period_param = periods.parse_period_param(default=ALL)
    params = {name: request.args.get(name, "").strip()[:_MAX_FIELD_LENGTH] for name in field_names}
    if not access.may_read_texts():
        params["text"] = ""
    for name, allowed in choices.items():
        if params[name] not in allowed:
            params[name] = ""
    values, errors = dict(params), []
    for name in number_fields:
        try:
            params[name] = values[name] = countries.parse_number_prefix(params[name], name)
        except Refused as error:
            values[name] = ""
            errors.append(error)
    page_size = paging.get_page_size()
    params = {
        **(period_param.params if period_param.choice != ALL else {}),
        **params,
        LINES_ARG: "" if page_size == paging.PAGE_SIZE else str(page_size),
    }
    return MessageFilter(
        {name: value for name, value in params.items() if value},
        period_param,
        build_query(period_param.period, **values),
        errors,
    )


def fill_filter_form(form: periods.PeriodForm, message_filter: MessageFilter) -> None:
    """Show in the form what was asked for, or what is wrong with it."""
    if not access.may_read_texts():
        del form.text
    form.fill(message_filter.period_param)
    for each in message_filter.errors:
        forms.add_form_error(form, each)


def build_message_list_context(
    message_filter: MessageFilter,
    search: Callable[..., Any],
    get_readable: Callable[[Any], Sequence[Any]],
    field_names: Sequence[str],
) -> dict[str, Any]:
    """The template variables of a list of messages.

    Args:
        search: finds them; takes `before`, `after`, `limit` and `seconds`.
        get_readable: the messages found, as this reader may see them.
        field_names: of the fields of the query.
    """
    reached: int | None = None

    def fetch_rows(**position: int | None) -> Sequence[Any]:
        nonlocal reached
        result = search(**position, seconds=context.get_limits().search_seconds)
        reached = result.reached
        return get_readable(result)

    current_page = paging.paginate(fetch_rows, paging.get_page_size())
    continue_before = reached if not current_page.older and current_page.after is None else None
    list_args = (*periods.PERIOD_ARGS, *field_names, *paging.PAGING_ARGS, LINES_ARG)
    return {
        "page": current_page,
        "message_filter": message_filter,
        "args": {name: request.args[name] for name in list_args if _is_arg_given(name)},
        "unfinished": continue_before,
        "reached": ids.time_from_id(continue_before) if continue_before else None,
    }


def _is_arg_given(name: str) -> bool:
    return bool(request.args.get(name)) and (name != "text" or access.may_read_texts())


_MessageT = TypeVar("_MessageT", SentMessage, InboundMessage)


def stream_messages(
    name: str,
    columns: Sequence[str],
    messages: Iterable[_MessageT],
    get_row: Callable[[_MessageT], Sequence[object]],
    get_json_values: Callable[[_MessageT], Mapping[str, object]] = lambda message: {},
) -> ResponseReturnValue:
    """What a list shows as a file: CSV, or JSON Lines where the address of this request ends so.

    `bom=1` begins a CSV file with the byte order mark by which Excel recognises UTF-8. In JSON ids are strings:
    JavaScript's numbers are too small for them.

    Args:
        name: the file's, without its ending.
        columns: of the rows; `id` and `message`, the text, among them.
        get_row: a message as a row.
        get_json_values: what JSON has of it besides.
    """

    def build_object(message: _MessageT) -> Mapping[str, object]:
        values = dict(zip(columns, get_row(message), strict=True))
        if message.text_placeholder:
            values["message"] = None
        return values | {"id": str(values["id"]), **get_json_values(message)}

    if request.path.endswith(".jsonl"):
        return downloads.stream_json_lines(f"{name}.jsonl", map(build_object, messages))
    with_bom = request.args.get("bom") == "1"
    return downloads.stream_csv(f"{name}.csv", columns, map(get_row, messages), with_bom=with_bom)


def redirect_to_list(url: str) -> ResponseReturnValue:
    """To the page of a list, which shows what is wrong with this request's query."""
    return htmx.redirect_browser_or_htmx(f"{url}?{request.query_string.decode('latin-1')}")
