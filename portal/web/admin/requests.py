"""What customers have asked operators for, and the answers."""

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import TextAreaField

from portal.core.i18n import N_, _
from portal.services.accounts import accounts
from portal.services.messages import account_requests
from portal.services.messages.account_requests import RequestAnswered
from portal.web.core import access, context, htmx
from portal.web.core.forms import TranslatedForm, refusals_on

blueprint = Blueprint("admin_requests", __name__, url_prefix="/admin/requests")


class AnswerForm(TranslatedForm):
    comment = TextAreaField(N_("Comment"))


@blueprint.route("/<int:request_id>/done", methods=["GET", "POST"])
@access.operator_required
def mark_request_done(request_id: int) -> ResponseReturnValue:
    """Say that what was asked for is done, with a comment."""
    return _answer_request(request_id, is_done=True)


@blueprint.route("/<int:request_id>/decline", methods=["GET", "POST"])
@access.operator_required
def decline_request(request_id: int) -> ResponseReturnValue:
    """Decline what was asked for, with a comment."""
    return _answer_request(request_id, is_done=False)


def _answer_request(request_id: int, *, is_done: bool) -> ResponseReturnValue:
    conn = context.get_conn()
    asked = account_requests.get_request(conn, request_id)
    back = access.find_opening_page(url_for("admin_customers.show_account", name=asked.account, _anchor="requests"))
    form = AnswerForm()
    if asked.answer:
        return htmx.redirect_browser_or_htmx(back, htmx.Toast(RequestAnswered().localized(), "warn"))
    if form.is_submitted():
        with refusals_on(form):
            account_requests.answer_request(
                conn,
                context.get_actor(),
                request_id,
                done=is_done,
                comment=form.comment.data,
                mail_keys=context.get_crypto_keys(),
            )
            text = _("The request of %(account)s was marked as done.") if is_done else ""
            text = text or _("The request of %(account)s was declined.")
            return htmx.redirect_browser_or_htmx(back, htmx.Toast(text % {"account": asked.account}))
    return htmx.render_dialog(
        "admin/_answer.html",
        accounts.get_account(conn, asked.account),
        title=_("Mark as done?") if is_done else _("Decline this request?"),
        tab="admin",
        asked=asked,
        is_done=is_done,
        form=form,
        address=request.path,
        back=back,
        back_path=back.removeprefix(request.script_root),
    )
