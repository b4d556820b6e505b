"""Routes, for operators: the list in its deciding order, what each says, and which way a message would go."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from flask import Blueprint, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from wtforms import HiddenField, StringField

from portal.core.clock import now_ms
from portal.core.i18n import N_, _
from portal.services.accounts import accounts
from portal.services.common.errors import Refused
from portal.services.messages import message_ways
from portal.services.messages.message_ways import MessageWay, RouteConditions
from portal.services.prices import countries
from portal.services.routing import route_usage, routes
from portal.services.routing.routes import Route, RouteTexts
from portal.services.routing.unreachable_routes import find_unreachable_routes
from portal.services.statistics import months
from portal.services.upstreams import binds, upstreams
from portal.services.upstreams.binds import BOUND, PARTLY, UpstreamState
from portal.services.upstreams.health import FAILING
from portal.web.core import access, context, htmx, live
from portal.web.core.forms import GetForm, OnceForm, TranslatedForm, parse_row_id, refusals_on
from portal.web.core.paging import PAGE_SIZE

blueprint = Blueprint("routes", __name__, url_prefix="/admin/routes")

# Empty rows for further upstreams.
_BLANK_ROW_COUNT = 3
_TEXT_NAMES = [each.name for each in fields(RouteTexts)]
_STATE_LABELS = {
    binds.UNBOUND: N_("not connected"),
    binds.REFUSED: N_("its bind is refused"),
    binds.DISABLED: N_("disabled"),
    binds.PENDING: N_("not connected"),
}


class MessageWayForm(GetForm):
    account = StringField(N_("Account"))
    number = StringField(N_("Number"))
    sender = StringField(N_("Sender"))


class RouteForm(OnceForm):
    """What a route says, as typed; `upstreams` and their shares come in rows. `version`, `order` and `shown_place`: of
    what was looked at. `test_…`: a message to try it with.
    """

    upstreams = HiddenField()
    customer = StringField(N_("Customer"))
    account = StringField(N_("Account"))
    country = StringField(N_("Country"))
    prefix = StringField(N_("First digits"))
    sender = StringField(N_("Sender"))
    replace_sender = StringField(N_("Replace the sender by"))
    quiet_hours = StringField(N_("Quiet hours"))
    buying_price = StringField(N_("Buying price of a part"))
    place = StringField(N_("Place in the list"))
    version = HiddenField()
    order = HiddenField()
    shown_place = HiddenField()
    test_account = StringField(N_("Account"))
    test_number = StringField(N_("Number"))
    test_sender = StringField(N_("Sender"))


@dataclass(frozen=True, slots=True)
class UpstreamInList:
    """An upstream of a route as the list shows it. `share`: in percent, None where it has none. `obstacle`: why it gets
    nothing at this time, in the reader's language; empty where it does.
    """

    name: str
    share: int | None
    obstacle: str


@dataclass(frozen=True, slots=True)
class RouteInList:
    """A route as the list shows it, with the id of the route that leaves it nothing, and until when it is quiet
    (milliseconds), both None where that isn't so.
    """

    route: Route
    conditions: str
    options: Sequence[str]
    upstreams: Sequence[UpstreamInList]
    unreachable_behind: int | None
    quiet_until: int | None


# --- the list


@blueprint.get("")
@access.operator_required
def list_routes() -> ResponseReturnValue:
    """The list, and the way of the message that the query describes: `account`, `number`, `sender`; `page`."""
    form, way = MessageWayForm(request.args), None
    listed = routes.list_routes(context.get_conn())
    if form.number.data or form.account.data:
        with refusals_on(form):
            way = _find_way(form.account.data, form.number.data, form.sender.data, listed)
    values: dict[str, Any] = {"form": form, "way": way, "explain": _localize}
    marked = None if way is None else way.route
    if htmx.is_htmx_request():
        return htmx.render_fragments("routing/_test.html", _render_list(listed, marked, oob=True), **values)
    part = _render_list(listed, marked)
    return htmx.render_page("routing/page.html", part=part, **values, **live.build_part_poll(part, ".poll_list"))


@blueprint.get("/live")
@access.operator_required
@access.polled
def poll_list() -> ResponseReturnValue:
    """The list, or 204 where it looks as it did. Query: `seen`, what the answer before has said of it; the `page`, and
    `marked`, the id of the route that decides about what was asked.
    """
    listed = routes.list_routes(context.get_conn())
    marked_id = request.args.get("marked", type=parse_row_id)
    marked = next((each for each in listed if each.id == marked_id), None)
    return live.answer_part_poll(_render_list(listed, marked, oob=True), ".poll_list")


def _render_list(listed: Sequence[Route], marked: Route | None, *, oob: bool = False) -> Markup:
    """The page of the list that the query names, or on which the marked route is."""
    conn = context.get_conn()
    page_count = max(-(-len(listed) // PAGE_SIZE), 1)
    page = min(max(request.args.get("page", 1, type=int), 1), page_count)
    if marked is not None:
        page = -(-marked.position // PAGE_SIZE)
    shown = listed[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    states = {each.upstream.id: each for each in binds.list_upstream_states(conn)}
    unreachable, now = find_unreachable_routes(conn, listed, shown), now_ms()
    values = {
        "rows": [_build_row(each, states, unreachable, now) for each in shown],
        "total": len(listed),
        "order": routes.fingerprint_order(listed),
        "default": next((each.upstream for each in states.values() if each.upstream.is_default), None),
        "has_upstreams": bool(states),
        "usage": route_usage.sum_route_usage(conn, months.get_month(now)),
        "page": page,
        "page_count": page_count,
        "marked_id": marked and marked.id,
    }
    return Markup(render_template("routing/_list.html", oob=oob, **values))


def _build_row(route: Route, states: dict[int, UpstreamState], unreachable: dict[int, int], now: int) -> RouteInList:
    total = sum(each.weight or 0 for each in route.upstreams)
    chosen = [
        UpstreamInList(
            each.name,
            None if each.weight is None else round(100 * each.weight / total),
            _find_obstacle(states[each.id]),
        )
        for each in route.upstreams
    ]
    quiet_hours = route.quiet_hours
    quiet_until = quiet_hours.get_end(now) if quiet_hours is not None and quiet_hours.includes(now) else None
    options = _format_options(route)
    return RouteInList(route, _format_conditions(route), options, chosen, unreachable.get(route.id), quiet_until)


def _find_obstacle(state: UpstreamState) -> str:
    if state.upstream.enabled and state.upstream.draining:
        return _("being drained")
    if state.state in (BOUND, PARTLY):
        return _("failing") if state.health.state == FAILING else ""
    return _(_STATE_LABELS[state.state])


def _format_conditions(route: Route) -> str:
    """What a route is for, in the reader's language, with the country's name."""
    parts = RouteConditions(route).list_sentences()
    if route.country:
        name = countries.get_country_name(route.country)
        parts = [(s, {"value": name} if p.get("value") == route.country else p) for s, p in parts]
    return ", ".join(_(sentence, **params) for sentence, params in parts)


def _format_options(route: Route) -> list[str]:
    """What a route does beside its upstreams, in the reader's language."""
    return [_(sentence, **params) for sentence, params in message_ways.describe_options(route)]


def _localize(way: MessageWay) -> list[str]:
    """The sentences of a way in the reader's language."""
    return [
        _(sentence, **{name: _localize_value(value) for name, value in params.items()})
        for sentence, params in way.sentences
    ]


def _localize_value(value: object) -> object:
    return _format_conditions(value.route) if isinstance(value, RouteConditions) else value


def _find_way(account_name: str, number: str, sender: str, listed: Sequence[Route]) -> MessageWay:
    conn = context.get_conn()
    account = accounts.get_account(conn, account_name)
    return message_ways.find_message_way(conn, account, number, sender, listed)


# --- adding and changing


@blueprint.route("/add", methods=["GET", "POST"])
@access.operator_required
def add_route() -> ResponseReturnValue:
    """Add a route; with the button `test` see only which way a message would go then."""
    form = RouteForm()
    listed = routes.list_routes(context.get_conn())
    if not form.is_submitted():
        return _render_edit_page(form, listed)
    with refusals_on(form):
        texts = _read_texts(form)
        before_id = routes.find_route_at_place(listed, 0, form.place.data) if form.place.data else None
        if "test" in request.form:
            return _render_test(form, listed, texts, 0, before_id)
        with htmx.once(url_for(".list_routes")):
            route = routes.add_route(context.get_conn(), context.get_actor(), texts, before_id)
        toast = htmx.Toast(_("Route %(route)s was added.", route=route.id))
        return htmx.redirect_after_post(url_for(".list_routes"), toast)
    return _render_edit_page(form, listed)


@blueprint.route("/<int:route_id>", methods=["GET", "POST"])
@access.operator_required
def change_route(route_id: int) -> ResponseReturnValue:
    """Change a route and its place; with the button `test` see only which way a message would go then."""
    conn, form = context.get_conn(), RouteForm()
    listed, route = routes.list_routes(conn), routes.get_route(conn, route_id)
    if not form.is_submitted():
        texts = routes.format_route_texts(route)
        for name in _TEXT_NAMES:
            form[name].data = getattr(texts, name) or ""
        form.place.data = str(route.position)
        _remember_shown(form, listed, route)
        return _render_edit_page(form, listed, route)
    with refusals_on(form):
        texts = _read_texts(form)
        # Where the place wasn't changed here, the route stays where others may have moved it.
        is_moved = form.place.data.strip() != form.shown_place.data
        place = form.place.data if is_moved else str(route.position)
        before_id = routes.find_route_at_place(listed, route_id, place)
        if "test" in request.form:
            return _render_test(form, listed, texts, route_id, before_id, route)
        actor, version = context.get_actor(), request.form.get("version", 0, type=parse_row_id)
        try:
            with htmx.once(url_for(".list_routes")):
                routes.change_route(conn, actor, route_id, texts, version)
                if is_moved:
                    routes.move_route(conn, actor, route, before_id, form.order.data)
        except (routes.RouteChanged, routes.RoutesReordered):
            # Whoever sends it again has seen what the route says now, and where it stands.
            listed, route = routes.list_routes(conn), routes.get_route(conn, route_id)
            if not is_moved:
                form.place.data = str(route.position)
            _remember_shown(form, listed, route)
            raise
        toast = htmx.Toast(_("Route %(route)s was changed.", route=route.id))
        return htmx.redirect_after_post(url_for(".list_routes"), toast)
    return _render_edit_page(form, listed, route)


def _remember_shown(form: RouteForm, listed: Sequence[Route], route: Route) -> None:
    form.version.data, form.order.data = str(route.version), routes.fingerprint_order(listed)
    form.shown_place.data = str(route.position)


def _read_texts(form: RouteForm) -> RouteTexts:
    """What a form says about a route.

    Raises:
        NoUpstreamChosen, InvalidRouteShare
    """
    texts = {name: form[name].data.strip() or None for name in _TEXT_NAMES if name != "upstreams"}
    return RouteTexts(routes.join_route_upstreams(_read_upstream_rows()), **texts)


def _read_upstream_rows() -> list[tuple[str, str]]:
    rows = zip(request.form.getlist("upstream"), request.form.getlist("weight"), strict=False)
    return [(name.strip(), weight.strip()) for name, weight in rows if name.strip()]


def _render_test(
    form: RouteForm,
    listed: Sequence[Route],
    texts: RouteTexts,
    route_id: int,
    before_id: int | None,
    route: Route | None = None,
) -> ResponseReturnValue:
    """The page with the way of a message as it would be with what isn't saved yet, and as it is without that."""
    draft = routes.parse_route(context.get_conn(), texts)
    changed = routes.place_route(listed, replace(draft, id=route_id), before_id)
    message = form.test_account.data, form.test_number.data, form.test_sender.data
    ways: dict[str, MessageWay] = {}
    try:
        ways = {"way": _find_way(*message, changed), "way_now": _find_way(*message, listed)}
    except Refused as refusal:
        name = f"test_{refusal.field}"
        form[name if name in form else "test_number"].errors = [refusal.localized()]
    return _render_edit_page(form, listed, route, **ways)


def _render_edit_page(
    form: RouteForm, listed: Sequence[Route], route: Route | None = None, **ways: Any
) -> ResponseReturnValue:
    conn = context.get_conn()
    rows = _read_upstream_rows() if form.is_submitted() else _list_upstream_rows(route)
    rows += [("", "")] * _BLANK_ROW_COUNT
    return htmx.render_page(
        "routing/edit.html",
        form=form,
        route=route,
        conditions=_format_conditions(route) if route else "",
        options=_format_options(route) if route else [],
        upstream_rows=rows,
        upstream_names=[each.name for each in upstreams.list_upstreams(conn)],
        timezone=context.get_config().timezone,
        total=len(listed),
        explain=_localize,
        format_upstreams=routes.format_route_upstreams,
        **ways,
    )


def _list_upstream_rows(route: Route | None) -> list[tuple[str, str]]:
    return [(each.name, str(each.weight or "")) for each in route.upstreams] if route else []


# --- moving and removing


@blueprint.post("/move")
@access.operator_required
def move_route() -> ResponseReturnValue:
    """Move a route by one place: `up` or `down` is its id, `order` that of the list that was looked at."""
    conn, actor = context.get_conn(), context.get_actor()
    direction = "up" if "up" in request.form else "down"
    listed = routes.list_routes(conn)
    route = routes.get_route(conn, request.form.get(direction, 0, type=parse_row_id))
    place = min(max(route.position + (-1 if direction == "up" else 1), 1), len(listed))
    before_id = routes.find_route_at_place(listed, route.id, str(place))
    try:
        moved = routes.move_route(conn, actor, route, before_id, request.form.get("order", ""))
        toast = htmx.Toast(_("Route %(route)s is at place %(place)s now.", route=route.id, place=moved.position))
    except routes.RoutesReordered as refusal:
        toast = htmx.Toast(refusal.localized(), "warn")
    listed = routes.list_routes(conn)
    return htmx.answer_done(url_for(".list_routes"), toast, _render_list(listed, None))


@blueprint.route("/<int:route_id>/remove", methods=["GET", "POST"])
@access.operator_required
def remove_route(route_id: int) -> ResponseReturnValue:
    """Remove a route, once that has been confirmed."""
    conn, form = context.get_conn(), TranslatedForm()
    route = routes.get_route(conn, route_id)
    if not form.is_submitted():
        title = _("Remove this route?")
        conditions = _format_conditions(route)
        return htmx.render_dialog("routing/_remove.html", title=title, route=route, conditions=conditions)
    try:
        version = request.form.get("version", 0, type=parse_row_id)
        routes.remove_route(conn, context.get_actor(), route, version)
        toast = htmx.Toast(_("Route %(route)s was removed.", route=route.id))
    except routes.RouteChanged as refusal:
        toast = htmx.Toast(refusal.localized(), "warn")
    return htmx.redirect_browser_or_htmx(url_for(".list_routes"), toast)
