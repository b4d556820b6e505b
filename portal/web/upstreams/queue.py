"""What waits for upstreams, for operators: in groups, and held, released, moved or cancelled; and accounts on hold."""

from typing import Any
from urllib.parse import urlencode
from zlib import crc32

from flask import Blueprint, abort, render_template, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import HiddenField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from portal.core.i18n import N_, _
from portal.services.accounts import accounts
from portal.services.messages import queue_selection, queue_works
from portal.services.messages.queue_selection import (
    ACCOUNT,
    AGE,
    CANCEL,
    HOLD,
    MOVE,
    RELEASE,
    ROUTE,
    UPSTREAM,
    QueueFilter,
    QueueRow,
)
from portal.services.messages.queue_works import QueueWork
from portal.services.routing import routes
from portal.services.routing.route_usage import NO_ROUTE
from portal.services.upstreams import holds, upstreams
from portal.web.core import access, context, htmx
from portal.web.core.forms import GetForm, OnceForm, parse_row_id, refusals_on

blueprint = Blueprint("queue", __name__, url_prefix="/admin/queue")

# So many groups are shown, the largest ones; and so many accounts are named before it is asked.
_MAX_ROWS, _MAX_NAMES = 50, 5
_GROUPING_LABELS = {UPSTREAM: N_("Upstream"), ACCOUNT: N_("Account"), ROUTE: N_("Route"), AGE: N_("Age")}
_AGES = {"10m": 10 * MINUTE_MS, "1h": HOUR_MS, "1d": DAY_MS}
_AGE_LABELS = {"10m": N_("more than 10 minutes"), "1h": N_("more than an hour"), "1d": N_("more than a day")}
_AGE_NAMES = {age: name for name, age in _AGES.items()}
_TITLES = {
    HOLD: N_("Hold these messages?"),
    RELEASE: N_("Release these messages?"),
    MOVE: N_("Move these messages?"),
    CANCEL: N_("Cancel these messages?"),
}
_BEGUN = {
    HOLD: N_("The messages are being held."),
    RELEASE: N_("The messages are being released."),
    MOVE: N_("The messages are being moved."),
    CANCEL: N_("The messages are being cancelled."),
}
_FILTER_NAMES = ("upstream", "account", "route", "older", "quiet")
_MAX_REASON_LENGTH = 200


class QueueFilterForm(GetForm):
    upstream = SelectField(N_("Upstream"), validate_choice=False)
    account = StringField(N_("Account"))
    # There may be thousands.
    route = StringField(N_("Route"))
    older = SelectField(N_("Waits for"), validate_choice=False)
    quiet = SelectField(N_("Quiet hours"), validate_choice=False)


class SteerForm(OnceForm):
    """`selection`: which messages, as the question has fixed it."""

    selection = HiddenField()
    # The style sheet hides a field with the id "to" where no dates are chosen.
    to = SelectField(N_("Upstream"), validate_choice=False, id="target")


class AccountHoldForm(OnceForm):
    # The page behind the dialog has a field of that name, too.
    account = StringField(N_("Account"), id="held-account")
    reason = StringField(N_("Reason"))


def _read_filter() -> tuple[QueueFilter, QueueFilterForm]:
    """What this request's query asks for. Where any of that is invalid the form says so, and nothing is to be shown or
    done by it: it would be more than was meant.
    """
    conn, form = context.get_conn(), QueueFilterForm(request.args)
    any_choice = SelectChoice("", _("Any"))
    names = [each.name for each in upstreams.list_upstreams(conn)]
    form.upstream.choices = [any_choice, *(SelectChoice(each, each) for each in names)]
    form.older.choices = [any_choice, *(SelectChoice(name, _(words)) for name, words in _AGE_LABELS.items())]
    form.quiet.choices = [any_choice, SelectChoice("now", _("Waits for their end"))]
    fits: dict[str, Any] = {}
    if form.upstream.data:
        with refusals_on(form):
            fits["upstream_id"] = upstreams.get_upstream(conn, form.upstream.data).id
    if form.account.data:
        with refusals_on(form):
            fits["account_id"] = accounts.get_account(conn, form.account.data.strip()).id
    if form.route.data:
        with refusals_on(form):
            fits["route_id"] = _find_route(form.route.data.strip())
    for field in (form.upstream, form.older, form.quiet):
        field.data = field.data or ""
        if all(each.value != field.data for each in field.choices):
            # What was asked for stays, with what is wrong with it.
            field.choices.append(SelectChoice(field.data, field.data))
            field.errors = field.errors or (_("Choose one"),)
    fits |= {"older_ms": _AGES.get(form.older.data), "is_quiet": bool(form.quiet.data)}
    return QueueFilter(**fits), form


def _find_route(text: str) -> int:
    try:
        route_id = parse_row_id(text)
    except ValueError:
        raise routes.NoSuchRoute(route=text) from None
    return route_id if route_id == NO_ROUTE else routes.get_route(context.get_conn(), route_id).id


def _lead_to_errors() -> ResponseReturnValue:
    """The page says what is wrong with what was asked for: an upstream may have another name meanwhile."""
    return htmx.redirect_browser_or_htmx(f"{url_for('.show_queue')}?{request.query_string.decode('latin-1')}")


def _describe_filter(form: QueueFilterForm) -> list[tuple[str, str]]:
    """What a form asks for, in words: labels of fields with what they say."""
    words = {
        "route": {str(NO_ROUTE): _("None: the default")},
        "older": {name: _(label) for name, label in _AGE_LABELS.items()},
        "quiet": {"now": _("Waits for their end")},
    }
    asked = [form[name] for name in _FILTER_NAMES if form[name].data]
    return [(each.label.text, words.get(each.name, {}).get(each.data, each.data)) for each in asked]


def _format_query(form: QueueFilterForm, **others: str) -> str:
    """The query for what a form shows, with other values of some fields; `by` is how it is grouped."""
    params = {**{name: form[name].data for name in _FILTER_NAMES}, **others}
    return urlencode({name: value for name, value in params.items() if value})


def _get_grouping() -> str:
    grouping = request.args.get("by", "")
    return grouping if grouping in _GROUPING_LABELS else UPSTREAM


def _build_part_values(queue_filter: QueueFilter, form: QueueFilterForm) -> dict[str, Any]:
    conn, grouping = context.get_conn(), _get_grouping()
    groups = queue_selection.list_queue_groups(conn, grouping, queue_filter, _MAX_ROWS)
    return {
        "rows": [(_describe_group(grouping, each), each, _link_group(form, grouping, each)) for each in groups.rows],
        "left_out": groups.left_count,
        "waiting": groups.waiting,
        "held": groups.held,
        "grouping": grouping,
        "heading": _(_GROUPING_LABELS[grouping]),
        "groupings": [(each, _(words), _format_query(form, by=each)) for each, words in _GROUPING_LABELS.items()],
        "query": _format_query(form),
        "works": [(each, _describe_work(each)) for each in queue_works.list_queue_works(conn)],
        "holds": holds.list_account_holds(conn),
    }


def _describe_group(grouping: str, row: QueueRow) -> str:
    if grouping == ROUTE:
        if not row.name:
            return _("None: the default")
        return i18n.ngettext("Route %(routes)s", "Routes %(routes)s", row.name.count(",") + 1, routes=row.name)
    if grouping == AGE:
        return _(_AGE_LABELS[_AGE_NAMES[row.key or 0]])
    return row.name or _("No upstream")


def _link_group(form: QueueFilterForm, grouping: str, row: QueueRow) -> str:
    """The query for a group; empty where nothing tells it apart."""
    if row.key is None:
        return ""
    if grouping == AGE:
        return _format_query(form, older=_AGE_NAMES[row.key])
    return _format_query(form, **{grouping: str(row.key) if grouping == ROUTE else row.name})


def _describe_work(work: QueueWork) -> str:
    """What was asked for, and how far it is, in words."""
    counts = {"done": i18n.format_number(work.done_count), "count": i18n.format_number(work.asked_count)}
    words = {
        HOLD: _("%(done)s of %(count)s held", **counts),
        RELEASE: _("%(done)s of %(count)s released", **counts),
        MOVE: _("%(done)s of %(count)s moved to %(upstream)s", **counts, upstream=work.target),
        CANCEL: _(
            "%(done)s of %(count)s cancelled, %(amount)s credits given back",
            **counts,
            amount=i18n.format_credits(work.refunded),
        ),
    }[work.action]
    if work.left_count:
        words += " · " + i18n.ngettext(
            "%(num)s left as it was: an upstream may have it",
            "%(num)s left as they were: an upstream may have them",
            work.left_count,
        )
    gone = work.asked_count - work.done_count - work.left_count
    if work.ended_at is not None and gone > 0:
        words += " · " + i18n.ngettext(
            "%(num)s had gone out or ended meanwhile", "%(num)s had gone out or ended meanwhile", gone
        )
    return words


@blueprint.get("")
@access.operator_required
def show_queue() -> ResponseReturnValue:
    """What waits, in groups. Query: `by`, and the filter: `upstream`, `account`, `route`, `older`, `quiet`."""
    queue_filter, form = _read_filter()
    if form.errors:
        return htmx.render_page("upstreams/queue.html", filter=form, grouping=_get_grouping())
    values = _build_part_values(queue_filter, form)
    return htmx.render_page("upstreams/queue.html", filter=form, seen=_compute_version(values), **values)


@blueprint.get("/changes")
@access.operator_required
@access.polled
def poll_queue() -> ResponseReturnValue:
    """What has changed of the page: 204 where nothing has. Query: the page's, and `seen`."""
    queue_filter, form = _read_filter()
    if form.errors:
        return _lead_to_errors()
    values = _build_part_values(queue_filter, form)
    version = _compute_version(values)
    if request.args.get("seen") == version:
        return "", 204
    return render_template("upstreams/_queue.html", seen=version, **values)


def _compute_version(values: dict[str, Any]) -> str:
    return format(crc32(repr(values).encode()), "08x")


@blueprint.route("/hold", methods=["GET", "POST"], defaults={"action": HOLD})
@blueprint.route("/release", methods=["GET", "POST"], defaults={"action": RELEASE})
@blueprint.route("/move", methods=["GET", "POST"], defaults={"action": MOVE})
@blueprint.route("/cancel", methods=["GET", "POST"], defaults={"action": CANCEL})
@access.operator_required
def steer_messages(action: str) -> ResponseReturnValue:
    """Hold, release, move or cancel what fits a filter, once how many messages that are has been confirmed.

    Query: the page's filter, and `by`, to which the way back leads. Form: what the question has said (`SteerForm`).
    """
    conn, form = context.get_conn(), SteerForm()
    queue_filter, filter_form = _read_filter()
    query, back = _format_query(filter_form, by=_get_grouping()), url_for(".show_queue", by=_get_grouping())
    if filter_form.errors:
        return _lead_to_errors()
    listed = [each for each in upstreams.list_upstreams(conn) if each.enabled and not each.draining]
    form.to.choices = [SelectChoice("", _("Choose one")), *(SelectChoice(each.name, each.name) for each in listed)]
    if form.is_submitted():
        try:
            selection = queue_selection.parse_selection(form.selection.data)
        except ValueError:
            abort(400)
    else:
        selection = queue_selection.build_selection(conn, action, queue_filter)
        form.selection.data = str(selection)
    preview = queue_selection.preview_selection(conn, action, selection, queue_filter.older_ms)
    if form.is_submitted():
        with refusals_on(form):
            target = upstreams.get_upstream(conn, form.to.data) if action == MOVE and form.to.data else None
            with htmx.once(back):
                queue_works.create_queue_work(
                    conn, context.get_actor(), action, selection, asked_count=preview.count, target=target
                )
            return htmx.redirect_browser_or_htmx(back, htmx.Toast(_(_BEGUN[action])))
    return htmx.render_dialog(
        "upstreams/_steer.html",
        title=_(_TITLES[action]),
        action=action,
        form=form,
        fits=_describe_filter(filter_form),
        preview=preview,
        accounts=queue_selection.list_largest_accounts(conn, preview, _MAX_NAMES),
        address=f"{url_for('.steer_messages', action=action)}?{query}",
        back=back,
    )


# --- accounts on hold


@blueprint.route("/accounts/hold", methods=["GET", "POST"])
@access.operator_required
def hold_account() -> ResponseReturnValue:
    """Hold all of an account. Query: `account`, to begin with. Form: `account` and `reason`."""
    conn, form = context.get_conn(), AccountHoldForm()
    if not form.is_submitted():
        form.account.data = request.args.get("account", "")
    else:
        with refusals_on(form):
            account = accounts.get_account(conn, form.account.data.strip())
            reason = form.reason.data.strip()[:_MAX_REASON_LENGTH]
            with htmx.once(url_for(".show_queue")):
                is_new = holds.hold_account(conn, context.get_actor(), account.id, reason)
            if is_new:
                return _lead_to_queue(htmx.Toast(_("%(name)s is on hold.", name=account.name)))
            return _lead_to_queue(htmx.Toast(_("%(name)s was on hold already.", name=account.name), "warn"))
    return htmx.render_dialog("upstreams/_hold_account.html", title=_("Hold an account"), form=form)


@blueprint.route("/accounts/<name>/release", methods=["GET", "POST"])
@access.operator_required
def release_account(account: accounts.Account) -> ResponseReturnValue:
    """Release an account, once that has been confirmed."""
    conn = context.get_conn()
    if request.method != "POST":
        waiting = queue_selection.list_queue_groups(conn, ACCOUNT, QueueFilter(account_id=account.id)).held
        title = _("Release this account?")
        return htmx.render_dialog("upstreams/_release_account.html", title=title, released=account, waiting=waiting)
    if holds.release_account(conn, context.get_actor(), account.id):
        return _lead_to_queue(htmx.Toast(_("%(name)s was released.", name=account.name)))
    return _lead_to_queue(htmx.Toast(_("%(name)s was not on hold any more.", name=account.name), "warn"))


def _lead_to_queue(toast: htmx.Toast) -> ResponseReturnValue:
    return htmx.redirect_browser_or_htmx(url_for(".show_queue"), toast)
