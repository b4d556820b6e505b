"""Options › Brakes: what an account's owner wants stricter than the operator; and answers to unusual traffic."""

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from portal.core.i18n import _
from portal.services.accounts.accounts import Account
from portal.services.routing import brakes, unusual_traffic
from portal.web.core import access, brake_forms, context, htmx, live
from portal.web.core.brake_forms import BrakesForm, OwnBrakesForm
from portal.web.core.forms import refusals_on

blueprint = Blueprint("brakes", __name__)


@blueprint.get("/accounts/<name>/options/brakes")
@access.account_access_required
def show_brakes(account: Account) -> ResponseReturnValue:
    """What is in force, and the owner's form."""
    return _answer_form(account)


@blueprint.post("/accounts/<name>/options/brakes")
@access.account_change_required
def change_own_brakes(account: Account) -> ResponseReturnValue:
    form = OwnBrakesForm()
    with refusals_on(form, amount="day_credits"):
        conn, seen = context.get_conn(), form.seen.data
        brakes.set_own_brakes(conn, context.get_actor(), account, form.to_brakes(), seen=seen)
        return _answer_form(account, toast=htmx.Toast(_("Your brakes were changed.")))
    return _answer_form(account, form)


def _answer_form(
    account: Account, form: BrakesForm | None = None, toast: htmx.Toast | None = None
) -> ResponseReturnValue:
    own = brakes.get_brakes(context.get_conn(), account.id).own
    if form is not None:
        form.seen.data = own.fingerprint
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
    done = unusual_traffic.answer_events(context.get_conn(), context.get_actor(), account, unusual_traffic.OURS)
    text = _("Thank you. What waited goes on.") if done else _("Somebody has answered this already.")
    address = url_for("accounts.show_account", name=account.name)
    if access.get_current_user().is_operator and request.form.get("page") == "admin":
        address = url_for("admin_customers.show_account", name=account.name)
    return htmx.redirect_browser_or_htmx(address, htmx.Toast(text))


live.register_live_page("brakes", tab="options")
