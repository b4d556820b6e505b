"""Options › Brakes: what an account's owner wants stricter than the operator; and answers to unusual traffic."""

from flask import Blueprint, abort, url_for
from flask.typing import ResponseReturnValue
from wtforms import HiddenField

from portal.core.i18n import _
from portal.services.accounts.accounts import Account
from portal.services.brakes import brakes, unusual_traffic
from portal.services.messages import queue_selection, queue_works
from portal.services.messages.queue_selection import QueueFilter
from portal.services.upstreams import holds
from portal.web.core import access, brake_forms, context, htmx, live
from portal.web.core.brake_forms import BrakesForm, OwnBrakesForm
from portal.web.core.forms import OnceForm

blueprint = Blueprint("brakes", __name__)


class CancelForm(OnceForm):
    """`selection`: which messages, as the question has fixed it."""

    selection = HiddenField()


@blueprint.get("/accounts/<name>/options/brakes")
@access.account_access_required
def show_brakes(account: Account) -> ResponseReturnValue:
    """What is in force, and the owner's form."""
    return _answer_form(account)


@blueprint.post("/accounts/<name>/options/brakes")
@access.account_change_required
def change_own_brakes(account: Account) -> ResponseReturnValue:
    form = OwnBrakesForm()
    with brake_forms.brake_refusals_on(form):
        conn, seen = context.get_conn(), form.seen.data
        brakes.set_own_brakes(conn, context.get_actor(), account, form.to_brakes(), seen=seen)
        return _answer_form(account, toast=htmx.Toast(_("Your brakes were changed.")))
    return _answer_form(account, form)


def _answer_form(
    account: Account, form: BrakesForm | None = None, toast: htmx.Toast | None = None
) -> ResponseReturnValue:
    own = brakes.get_brakes(context.get_conn(), account.id).own
    return htmx.answer_form(
        "accounts/brakes/_tile.html",
        page="accounts/brakes/settings.html",
        address=url_for(".show_brakes", name=account.name),
        toast=toast,
        form=form or brake_forms.draw_form(OwnBrakesForm, own),
        **brake_forms.build_brakes_values(account),
        **live.build_live_page_values("brakes", account),
    )


@blueprint.post("/accounts/<name>/traffic")
@access.account_change_required
def answer_traffic(account: Account) -> ResponseReturnValue:
    """Say that what was unusual is the account's own: what is held of it goes on."""
    conn = context.get_conn()
    done = unusual_traffic.answer_events(conn, context.get_actor(), account, unusual_traffic.OURS)
    text = _("Thank you. What waited goes on.") if done else _("Somebody has answered this already.")
    if done and account.id in holds.list_held_account_ids(conn):
        text = _("Thank you. An operator holds what waits, and will release it.")
    return htmx.redirect_browser_or_htmx(_find_page_url(account), htmx.Toast(text))


@blueprint.route("/accounts/<name>/traffic/cancel", methods=["GET", "POST"])
@access.account_change_required
def cancel_traffic(account: Account) -> ResponseReturnValue:
    """Cancel what waits of an account that is on hold for unusual traffic, once how much that is has been confirmed. It
    stays on hold, for its client may go on to submit.
    """
    conn, actor = context.get_conn(), context.get_actor()
    back = _find_page_url(account)
    form = CancelForm()
    if not form.is_submitted():
        selection = queue_selection.build_selection(conn, queue_selection.CANCEL, QueueFilter(account_id=account.id))
        form.selection.data = str(selection)
        preview = queue_selection.preview_selection(conn, queue_selection.CANCEL, selection)
        title = _("Cancel what waits?")
        return htmx.render_dialog(
            "accounts/_cancel_traffic.html", account, title=title, tab="home", preview=preview, back=back, form=form
        )
    if not unusual_traffic.is_held_by_brake(conn, account.id):
        return htmx.redirect_browser_or_htmx(back, htmx.Toast(_("Somebody has answered this already.")))
    try:
        selection = queue_selection.parse_selection(form.selection.data)
    except ValueError:
        abort(400)
    if selection.account_id != account.id:
        abort(400)
    preview = queue_selection.preview_selection(conn, queue_selection.CANCEL, selection)
    with htmx.once(back):
        by_operator = access.get_current_user().is_operator
        unusual_traffic.answer_events(conn, actor, account, unusual_traffic.CANCELLED, by_operator=by_operator)
        queue_works.create_queue_work(conn, actor, queue_selection.CANCEL, selection, asked_count=preview.count)
    text = _("What waited is being cancelled, and its credits come back. The account stays on hold.")
    return htmx.redirect_browser_or_htmx(back, htmx.Toast(text))


def _find_page_url(account: Account) -> str:
    """Where the banner is that was answered: operators see the account's page in the administration."""
    if access.get_current_user().is_operator:
        return url_for("admin_customers.show_account", name=account.name)
    return url_for("accounts.show_account", name=account.name)


live.register_live_page("brakes", tab="options")
