"""The audit log, for operators: who did what, and who was refused at the login; as a page and as files."""

import json
from functools import partial
from urllib.parse import urlencode

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_, _
from portal.services.common.periods import ALL
from portal.services.operations import audit_log
from portal.services.operations.audit_log import ACTION_LABELS, AuditEntry, AuditFilter
from portal.services.people import customers
from portal.web.core import access, context, downloads, filters, forms, htmx, paging, periods

blueprint = Blueprint("audit_log", __name__, url_prefix="/admin")

_CSV_COLUMNS = "id;at;actor;address;customer;account;action;count;last;details".split(";")
_FIELDS = ("customer", "account", "actor", "action", "address")
_MAX_FIELD_LENGTH = 254
# Details that are amounts of credits, but where the action is about money, and moments.
_CREDIT_DETAILS = {"amount", "below", "credit_line", "credits", "pack"}
_TIME_DETAILS = {"before", "expires_at", "valid_from"}
_OF_MONEY = "payment.unmatched"
_MAX_DETAIL_LENGTH = 200


class AuditFilterForm(periods.PeriodForm):
    customer = SelectField(N_("Customer"), validate_choice=False)
    account = StringField(N_("Account"))
    actor = StringField(N_("By"))
    action = SelectField(N_("Action"), validate_choice=False)
    address = StringField(N_("IP address"))


def _read_filter() -> tuple[AuditFilter | None, AuditFilterForm, str]:
    """What this request's query asks for, its form, and the query for the same; None where something in it is invalid,
    and the form says what."""
    conn, period_param = context.get_conn(), periods.parse_period_param(default=ALL)
    form = AuditFilterForm(request.args)
    form.fill(period_param)
    form.customer.choices = [(str(each.id), each.name) for each in customers.list_all_customers(conn)]
    form.action.choices = sorted(
        ((action, _describe_action(action)) for action in audit_log.list_actions(conn)), key=lambda each: each[1]
    )
    for field in (form.customer, form.action):
        if field.data not in dict(field.choices):
            field.data = ""
        field.choices = [SelectChoice("", _("Any")), *(SelectChoice(*each) for each in field.choices)]
    typed = {name: form[name].data.strip()[:_MAX_FIELD_LENGTH] for name in _FIELDS}

    params = {**(period_param.params if period_param.choice != ALL else {}), **typed}
    customer, texts = typed.pop("customer"), typed
    audit_filter = None
    with forms.refusals_on(form):
        audit_filter = audit_log.build_audit_filter(
            conn, customer_id=int(customer) if customer else None, period=period_param.period, **texts
        )
    query = urlencode({name: value for name, value in params.items() if value})
    return None if form.errors else audit_filter, form, query


@blueprint.get("/audit")
@access.operator_required
def list_audit_log() -> ResponseReturnValue:
    """A page of it, newest first.

    Query: `customer` (its id), `account`, `actor`, `action`, `address`, `period` (with `from` and `to`), and `before`
    or `after`, which turn the page.
    """
    audit_filter, form, query = _read_filter()
    page = audit_filter and paging.paginate(partial(audit_log.list_audit_page, context.get_conn(), audit_filter))
    return htmx.render_page(
        "admin/audit.html",
        filter=form,
        query=query,
        page=page,
        days=context.get_config().retention.audit_days,
        describe_action=lambda entry: _describe_action(entry.action),
        describe_details=_describe_details,
    )


@blueprint.get("/audit.csv")
@blueprint.get("/audit.jsonl")
@access.operator_required
def download_audit_log() -> ResponseReturnValue:
    """What the same query shows in the page, newest first; `bom=1` as in the lists of messages."""
    audit_filter, _form, _query = _read_filter()
    if audit_filter is None:
        return filters.redirect_to_list(url_for(".list_audit_log"))
    rows = map(audit_log.audit_entry_to_dict, audit_log.iterate_audit_log(context.open_stream_conn(), audit_filter))
    if request.path.endswith(".jsonl"):
        return downloads.stream_json_lines("audit.jsonl", rows)
    with_bom = request.args.get("bom") == "1"
    return downloads.stream_csv("audit.csv", _CSV_COLUMNS, map(_to_csv_row, rows), with_bom=with_bom)


def _to_csv_row(row: dict[str, object]) -> list[object]:
    return list((row | {"details": json.dumps(row["details"], ensure_ascii=False)}).values())


def _describe_action(action: str) -> str:
    return _(ACTION_LABELS[action]) if action in ACTION_LABELS else action


def _describe_details(entry: AuditEntry) -> list[tuple[str, str]]:
    """What changed: the names in the row, and the values as people read them."""
    return [
        (name, _format_detail(entry, name, value)) for name, value in entry.details.items() if value not in (None, "")
    ]


def _format_detail(entry: AuditEntry, name: str, value: object) -> str:
    if isinstance(value, int) and name in _CREDIT_DETAILS and entry.action != _OF_MONEY:
        return i18n.format_credits(value)
    if isinstance(value, int) and name in _TIME_DETAILS:
        return i18n.format_date_time(value, context.get_config().timezone)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_DETAIL_LENGTH else f"{text[:_MAX_DETAIL_LENGTH]}…"
