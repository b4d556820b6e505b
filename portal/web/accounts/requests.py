"""What only operators can change of an account, asked for in a dialog."""

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import TextAreaField

from portal.core.i18n import N_, _
from portal.services.accounts.accounts import Account
from portal.services.messages import account_requests
from portal.services.messages.account_requests import NothingToAsk
from portal.web.core import access, context, htmx
from portal.web.core.forms import TranslatedForm, refusals_on

blueprint = Blueprint("requests", __name__)


class AskForm(TranslatedForm):
    note = TextAreaField(N_("Note"))


@blueprint.route("/accounts/<name>/ask/<subject>", methods=["GET", "POST"])
@access.account_change_required
def ask_operator(account: Account, subject: str) -> ResponseReturnValue:
    """Ask the operators, once what for has been shown. Query: `value`, a country's code or a data_coding."""
    conn, value = context.get_conn(), request.args.get("value", "")
    back = access.find_opening_page(url_for("accounts.show_account", name=account.name))
    title = _("Ask the operator")
    if access.get_current_user().is_operator and subject in account_requests.SUBJECTS:
        # They change it themselves.
        address = request.script_root + account_requests.find_place(account.name, subject)
        return ("", 204, {"HX-Redirect": address}) if htmx.is_htmx_request() else redirect(address)
    try:
        question = account_requests.build_question(conn, account, subject, value)
    except NothingToAsk as refusal:
        return htmx.render_dialog(
            "accounts/requests/_nothing.html", account, title=title, tab="home", back=back, text=refusal.localized()
        )
    form = AskForm()
    if form.is_submitted():
        with refusals_on(form):
            account_requests.ask_operator(
                conn,
                context.get_actor(),
                account,
                subject,
                value,
                form.note.data,
                mail_keys=context.get_crypto_keys(),
            )
            toast = htmx.Toast(_("The operator was asked. The answer comes by e-mail."))
            return htmx.redirect_browser_or_htmx(back, toast)
    address = url_for(".ask_operator", name=account.name, subject=subject, value=value or None)
    return htmx.render_dialog(
        "accounts/requests/_ask.html",
        account,
        title=title,
        tab="home",
        question=question,
        form=form,
        address=address,
        back=back,
        back_path=back.removeprefix(request.script_root),
    )
