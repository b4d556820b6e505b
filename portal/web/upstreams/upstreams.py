"""Operators' pages of upstreams: how each does, live; adding, changing and removing one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, abort, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from portal.core.i18n import N_, _, gettext
from portal.services.common.errors import Refused
from portal.services.upstreams import counters, message_ids, obstacles, upstreams
from portal.services.upstreams.settings import DEFAULTS
from portal.services.upstreams.upstreams import SMPP, Upstream, UpstreamChanged
from portal.web.core import access, context, htmx, live
from portal.web.core.forms import parse_row_id, refusals_on
from portal.web.upstreams import trying
from portal.web.upstreams.description import UpstreamCard, describe_binds, describe_counters, list_cards, summarize
from portal.web.upstreams.forms import UpstreamForm, describe_differences, fill_form, label_form

blueprint = Blueprint("upstreams", __name__, url_prefix="/admin/upstreams")

_LIST_PART = "upstreams/_list.html"


@blueprint.get("")
@access.operator_required
def list_upstreams() -> ResponseReturnValue:
    """All, those that send nothing first."""
    part = _render_cards(list_cards())
    return htmx.render_page("upstreams/page.html", part=part, **live.build_part_poll(part, ".poll_changes"))


@blueprint.get("/live")
@access.operator_required
@access.polled
def poll_changes() -> ResponseReturnValue:
    """The list, or 204 where it looks as it did. Query: `seen`, what the answer before has said of it; `upstream`, the
    id of the only one that the page has, whose binds and counters come with it.
    """
    only_id = request.args.get("upstream", type=parse_row_id)
    if only_id is None:
        part = _render_cards(list_cards(), oob=True)
    else:
        card = _get_card(only_id)
        part = _render_cards([card], oob=True, alone=True) + _render_details(card, oob=True)
    return live.answer_part_poll(part, ".poll_changes", upstream=only_id)


def _get_card(upstream_id: int) -> UpstreamCard:
    return next((each for each in list_cards() if each.upstream.id == upstream_id), None) or abort(404)


def _render_cards(cards: Sequence[UpstreamCard], *, oob: bool = False, alone: bool = False) -> Markup:
    summary, meaning = summarize(cards)
    values = {"cards": cards, "summary": summary, "meaning": meaning}
    return Markup(render_template(_LIST_PART, oob=oob, alone=alone, **values))


def _render_details(card: UpstreamCard, *, oob: bool = False) -> Markup:
    conn, upstream = context.get_conn(), card.upstream
    values = {
        "upstream": upstream,
        "binds": describe_binds(card.state),
        "counted": describe_counters(counters.get_counters(conn, upstream.id)),
        "learned_ids": message_ids.load_id_forms(conn, [upstream.id])[upstream.id].learned,
    }
    return Markup(render_template("upstreams/_details.html", oob=oob, **values))


# --- adding and changing one


@blueprint.route("/add", methods=["GET", "POST"])
@access.operator_required
def add_upstream() -> ResponseReturnValue:
    form = label_form(UpstreamForm())
    if request.method == "POST":
        conn = context.get_conn()
        with refusals_on(form), htmx.once(url_for(".list_upstreams")):
            upstream = upstreams.create_upstream(
                conn,
                context.get_crypto_keys(),
                context.get_actor(),
                form.name.data.strip(),
                kind=form.kind.data or SMPP,
                password=form.password.data,
                **form.read_settings(DEFAULTS, form.kind.data or SMPP),
            )
            toast = htmx.Toast(_("%(name)s was added. It connects now.", name=upstream.name))
            return htmx.redirect_browser_or_htmx(url_for(".show_upstream", upstream_id=upstream.id), toast)
        trying.ask_for_password_again(form)
    return trying.answer_upstream_form(form, None)


@blueprint.route("/<int:upstream_id>/change", methods=["GET", "POST"])
@access.operator_required
def change_upstream(upstream_id: int) -> ResponseReturnValue:
    """Change one; what another operator has changed meanwhile is told, and overwritten only when it is sent again."""
    conn = context.get_conn()
    upstream = upstreams.get_upstream_by_id(conn, upstream_id)
    form = fill_form(upstream)
    differences: list[str] = []
    if request.method == "POST":
        with refusals_on(form):
            with htmx.once(url_for(".show_upstream", upstream_id=upstream_id)):
                changed = _change(upstream, form)
            toast = htmx.Toast(_("%(name)s was changed. It holds at once.", name=changed.name))
            return htmx.redirect_browser_or_htmx(url_for(".show_upstream", upstream_id=upstream_id), toast)
        upstream = upstreams.get_upstream_by_id(conn, upstream_id)
        if form.version.data != str(upstream.version):
            differences = describe_differences(form, upstream)
            form.version.data = str(upstream.version)
        trying.ask_for_password_again(form)
    return trying.answer_upstream_form(form, upstream, differences=differences)


def _change(upstream: Upstream, form: UpstreamForm) -> Upstream:
    if form.version.data != str(upstream.version):
        raise UpstreamChanged(name=upstream.name)
    return upstreams.change_upstream(
        context.get_conn(),
        context.get_crypto_keys(),
        context.get_actor(),
        upstream,
        name=form.name.data.strip(),
        password=form.password.data or None,
        expected_version=upstream.version,
        **form.read_settings(upstream.settings, upstream.kind),
    )


# --- one


@blueprint.get("/<int:upstream_id>")
@access.operator_required
def show_upstream(upstream_id: int) -> ResponseReturnValue:
    return render_upstream_page(upstreams.get_upstream_by_id(context.get_conn(), upstream_id))


def render_upstream_page(upstream: Upstream, form: trying.MessageForm | None = None) -> ResponseReturnValue:
    """The page of one upstream.

    Args:
        form: of a test message, where it was refused.
    """
    card = _get_card(upstream.id)
    part, details = _render_cards([card], alone=True), _render_details(card)
    return htmx.render_page(
        "upstreams/one.html",
        part=part,
        details=details,
        upstream=upstream,
        form=form or trying.MessageForm(),
        **trying.build_messages_values(upstream),
        **live.build_part_poll(part + details, ".poll_changes", upstream=upstream.id),
    )


# --- its state, each change of which is confirmed


@dataclass(frozen=True, slots=True)
class _Action:
    """Something that is done with an upstream: the question, the verb, what happens, and what is said afterwards."""

    change: Callable[[Any, Any, Upstream], None]
    title: str
    verb: str
    sentence: str
    done: str
    kind: str = "primary"


_ACTIONS = {
    "enable": _Action(
        upstreams.enable_upstream,
        N_("Enable this upstream?"),
        N_("Enable %(name)s"),
        N_("%(name)s connects, and takes messages again."),
        N_("%(name)s was enabled."),
    ),
    "disable": _Action(
        upstreams.disable_upstream,
        N_("Disable this upstream?"),
        N_("Disable %(name)s"),
        N_("%(name)s is unbound, and gets nothing until it is enabled again. Its receipts don’t come meanwhile."),
        N_("%(name)s was disabled."),
        "danger",
    ),
    "drain": _Action(
        upstreams.drain_upstream,
        N_("Drain this upstream?"),
        N_("Drain %(name)s"),
        N_("%(name)s gets no more messages. What it has is answered, and its receipts still come."),
        N_("%(name)s is being drained."),
        "danger",
    ),
    "default": _Action(
        upstreams.set_default_upstream,
        N_("Make this the default upstream?"),
        N_("Make %(name)s the default one"),
        N_("%(name)s takes all that no route takes, also what waits already."),
        N_("%(name)s is the default upstream now."),
    ),
    "no_default": _Action(
        upstreams.unset_default_upstream,
        N_("Have no default upstream?"),
        N_("Have no default upstream"),
        N_(
            "%(name)s takes what its routes say, and no more. What no route takes is refused; what waits already goes"
            " on waiting until there is a default upstream again."
        ),
        N_("There is no default upstream now."),
        "danger",
    ),
    "remove": _Action(
        upstreams.remove_upstream,
        N_("Remove this upstream?"),
        N_("Remove %(name)s"),
        N_(
            "%(name)s is removed, with its settings and its password, unless messages wait for it or are under way to"
            " it. Messages that it has sent go on naming it."
        ),
        N_("%(name)s was removed."),
        "danger",
    ),
}


def _add_action(name: str, action: _Action) -> None:
    @blueprint.route(
        f"/<int:upstream_id>/{name.replace('_', '-')}", methods=["GET", "POST"], endpoint=f"{name}_upstream"
    )
    @access.operator_required
    def change_state(upstream_id: int) -> ResponseReturnValue:
        upstream = upstreams.get_upstream_by_id(context.get_conn(), upstream_id)
        if request.method != "POST":
            return _ask(name, action, upstream)
        refused = ""
        try:
            action.change(context.get_conn(), context.get_actor(), upstream)
        except (upstreams.UpstreamInRoutes, upstreams.MessagesWaitForUpstream, upstreams.DefaultUpstreamInUse) as error:
            refused = error.localized()
        toast = htmx.Toast(refused, "err") if refused else htmx.Toast(gettext(action.done, name=upstream.name))
        address = url_for(".list_upstreams")
        if name != "remove" and not htmx.is_htmx_request():
            address = url_for(".show_upstream", upstream_id=upstream.id)
        return htmx.redirect_browser_or_htmx(address, toast)


def _ask(name: str, action: _Action, upstream: Upstream) -> ResponseReturnValue:
    conn = context.get_conn()
    title = gettext(action.title)
    if name == "remove":
        try:
            upstreams.check_use(conn, upstream)
        except Refused as error:
            return htmx.render_dialog(
                "upstreams/_in_use.html",
                title=title,
                upstream=upstream,
                refusal=error.localized(),
                leads_to_routes=isinstance(error, upstreams.UpstreamInRoutes),
            )
    return htmx.render_dialog(
        "upstreams/_ask.html",
        title=title,
        upstream=upstream,
        is_last=name in ("disable", "drain") and obstacles.is_last_taker(conn, upstream),
        action=action,
        address=url_for(f".{name}_upstream", upstream_id=upstream.id),
        waiting=upstreams.count_waiting_messages(conn).get(upstream.id, 0),
        under_way=upstreams.count_messages_under_way(conn, upstream),
        unreported=upstreams.count_unreported_messages(conn, upstream),
    )


for _name, _action in _ACTIONS.items():
    _add_action(_name, _action)
