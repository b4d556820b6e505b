"""Trying an upstream out: testing a connection before it is saved, and sending a test message."""

from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import StringField, TextAreaField

from portal.core import i18n
from portal.core.i18n import N_, _, gettext
from portal.services.messages import trial_messages
from portal.services.upstreams import upstreams
from portal.services.upstreams.settings import (
    DEFAULTS,
    UpstreamSettings,
    format_settings,
    merge_settings,
    parse_settings,
)
from portal.services.upstreams.upstreams import SMPP, Upstream
from portal.web.core import access, context, htmx
from portal.web.core.forms import OnceForm, refusals_on
from portal.web.upstreams import connection_tests
from portal.web.upstreams.connection_tests import ConnectionTest
from portal.web.upstreams.forms import UpstreamForm, fill_form, label_form

blueprint = Blueprint("upstream_tests", __name__, url_prefix="/admin/upstreams")

_STEPS_PART, _MESSAGES_PART = "upstreams/_steps.html", "upstreams/_messages.html"
_STEP_LABELS = {
    "resolve": N_("Look the host up"),
    "connect": N_("Connect"),
    "tls": N_("TLS"),
    "bind": N_("Bind"),
    "enquire_link": N_("Ask whether it is alive"),
    "unbind": N_("Unbind"),
}
# The kind, the icon and the word of each state, and what else there is to say.
_STATES = {
    trial_messages.WAITING: ("info", "clock", N_("is being sent"), ""),
    trial_messages.ACCEPTED: ("info", "check", N_("accepted"), N_("its receipt is still to come")),
    trial_messages.REFUSED: ("err", "error", N_("refused"), ""),
    trial_messages.UNANSWERED: ("warn", "alert", N_("not answered"), N_("it may have arrived")),
    trial_messages.UNSENT: ("err", "error", N_("not sent"), N_("the upstream isn't bound, or has no room")),
    trial_messages.ARRIVED: ("ok", "check", N_("has arrived"), ""),
    trial_messages.UNDELIVERED: ("err", "error", N_("has not arrived"), ""),
}
_SHOWN_MESSAGES = 5
# Without JavaScript the answer comes once the test is over, or after so long.
_WAIT_SECONDS = 8.0


class MessageForm(OnceForm):
    number = StringField(N_("Number"))
    sender = StringField(N_("Sender"))
    text = TextAreaField(N_("Text"), default="Test @ _ é € {}")


# --- the form, and a test of the connection with what it has


def answer_upstream_form(
    form: UpstreamForm, upstream: Upstream | None, *, status: int | None = None, **values: Any
) -> ResponseReturnValue:
    """The form of an upstream (None: a new one), as it was sent.

    Args:
        status: of HTTP; None: a refused form's, or 200.
        values: `differences`, what somebody else has set meanwhile; and those of `_steps.html`, where it is tested.
    """
    is_new = upstream is None
    endpoint, test = ("add_upstream", "test_new_connection") if is_new else ("change_upstream", "test_connection")
    which: dict[str, Any] = {} if upstream is None else {"upstream_id": upstream.id}
    values = {
        "form": form,
        "groups": form.list_groups(upstream.kind if upstream else SMPP),
        "upstream": upstream,
        "action": url_for(f"upstreams.{endpoint}", **which),
        "test_action": url_for(f"upstream_tests.{test}", **which),
        "differences": [],
        "test": None,
        "problems": [],
        **values,
    }
    if htmx.is_htmx_request():
        return htmx.render_fragments("upstreams/_form.html", status=status, **values)
    return htmx.render_page("upstreams/form.html", status=status, **values)


def ask_for_password_again(form: UpstreamForm) -> None:
    """Say at the password that it has to be typed once more: no page can fill this field in."""
    if form.password.data and not form.password.errors:
        form.password.errors = [_("Enter the password once more.")]


@blueprint.post("/test")
@access.operator_required
def test_new_connection() -> ResponseReturnValue:
    return _start_test(label_form(UpstreamForm()), None)


@blueprint.post("/<int:upstream_id>/test")
@access.operator_required
def test_connection(upstream_id: int) -> ResponseReturnValue:
    upstream = upstreams.get_upstream_by_id(context.get_conn(), upstream_id)
    return _start_test(fill_form(upstream), upstream)


def _start_test(form: UpstreamForm, upstream: Upstream | None) -> ResponseReturnValue:
    """Test what the form has; nothing is stored."""
    test = None
    with refusals_on(form):
        before = upstream.settings if upstream else DEFAULTS
        settings = _check_settings(form, before)
        if upstream is None or form.password.data:
            upstreams.check_password(form.password.data)
        else:
            upstreams.check_stored_password(upstream, settings)
        name = form.name.data.strip() or "carrier"
        test = connection_tests.start(
            {
                "language": i18n.current_language(),
                "name": name,
                "settings": format_settings(settings),
                "password": form.password.data,
                "upstream": upstream.id if upstream else None,
            },
            context.get_config(),
        )
        upstreams.record_connection_test(
            context.get_conn(),
            context.get_actor(),
            name,
            settings,
            with_stored_password=not form.password.data,
        )
    if test is not None:
        if htmx.is_htmx_request():
            return _answer_steps(test)
        test.wait(_WAIT_SECONDS)
        ask_for_password_again(form)
        return answer_upstream_form(form, upstream, status=200, **_list_steps(test))
    if not htmx.is_htmx_request():
        ask_for_password_again(form)
        return answer_upstream_form(form, upstream)
    problems = [*form.form_errors, *(f"{each.label.text}: {' '.join(each.errors)}" for each in form if each.errors)]
    # The form stays as it is, with the password that was typed.
    return htmx.render_fragments(_STEPS_PART, status=422, test=None, problems=problems)


def _check_settings(form: UpstreamForm, before: UpstreamSettings) -> UpstreamSettings:
    return merge_settings(
        before, parse_settings(form.read_settings(before, SMPP), is_simulator=False), is_simulator=False
    )


@blueprint.get("/tests/<int:test_id>")
@access.operator_required
@access.polled
def show_connection_test(test_id: int) -> ResponseReturnValue:
    """The steps so far; for htmx a part that asks again until it is over."""
    return _answer_steps(connection_tests.find(test_id))


def _answer_steps(test: ConnectionTest | None) -> ResponseReturnValue:
    if htmx.is_htmx_request():
        return htmx.render_fragments(_STEPS_PART, **_list_steps(test))
    return htmx.render_page("upstreams/steps.html", **_list_steps(test))


def _list_steps(test: ConnectionTest | None) -> dict[str, Any]:
    if test is None:
        return {"test": None, "problems": [_("This test is not known any more: begin a new one.")]}
    # In this order: where it is over, all steps are there.
    return {
        "test": test,
        "is_over": test.is_over,
        "steps": test.list_steps(),
        "problems": [],
        "label_step": _label_step,
    }


def _label_step(step: str) -> str:
    return gettext(_STEP_LABELS[step])


# --- a message


@blueprint.route("/<int:upstream_id>/messages", methods=["GET", "POST"])
@access.operator_required
@access.polled
def send_test_message(upstream_id: int) -> ResponseReturnValue:
    """Send one through this upstream; and the last ones, with what came of them."""
    conn = context.get_conn()
    upstream = upstreams.get_upstream_by_id(conn, upstream_id)
    form, toast = MessageForm(), None
    if request.method == "POST":
        address = url_for("upstreams.show_upstream", upstream_id=upstream_id)
        with refusals_on(form, destination="number", address="sender"), htmx.once(address):
            trial_messages.send_test_message(
                conn, context.get_actor(), upstream, form.sender.data, form.number.data, form.text.data
            )
            toast = htmx.Toast(_("The test message is being sent."))
    values = build_messages_values(upstream)
    if toast is not None:
        form = MessageForm(formdata=None, data={"number": form.number.data, "sender": form.sender.data})
    if request.method != "POST" and htmx.is_htmx_request():
        return htmx.render_fragments(_MESSAGES_PART, upstream=upstream, **values)
    return htmx.answer_form(
        "upstreams/_send.html",
        page="upstreams/messages.html",
        address=url_for("upstreams.show_upstream", upstream_id=upstream.id),
        toast=toast,
        form=form,
        upstream=upstream,
        **values,
    )


def build_messages_values(upstream: Upstream) -> dict[str, Any]:
    """The last test messages through an upstream, each with what its state is called."""
    sent = trial_messages.list_test_messages(context.get_conn(), upstream.id, _SHOWN_MESSAGES)
    shown = [(each, *_STATES[each.state]) for each in sent]
    is_waiting = any(each.state == trial_messages.WAITING for each in sent)
    # Receipts may take days: these are asked for less often.
    interval = "1s" if is_waiting else "3s" if any(not each.is_over for each in sent) else ""
    return {"messages": shown, "interval": interval, "may_send": upstream.kind == SMPP}
