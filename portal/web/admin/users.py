"""A customer's users, and the links with which they enrol."""

from flask import Blueprint, abort, url_for
from flask.typing import ResponseReturnValue

from portal.core.db import immediate
from portal.core.i18n import gettext as _
from portal.services.common.errors import Refused
from portal.services.people import enrolment, users
from portal.services.people.users import User
from portal.web.admin.customers import UserForm, render_customer_page, render_dialog
from portal.web.core import access, context
from portal.web.core.forms import attach

blueprint = Blueprint("admin_users", __name__, url_prefix="/admin")


@blueprint.post("/customers/<int:customer_id>/users")
@access.operate
def add_user(customer_id: int) -> ResponseReturnValue:
    conn, customer = context.conn(), access.customer_or_404(customer_id)
    form = UserForm(prefix="user-")
    try:
        with immediate(conn):
            user = users.add(
                conn, context.keys(), context.actor(), form.email.data or "", form.role.data or "", customer.id
            )
            token = enrolment.new_link(conn, user)
    except Refused as refusal:
        attach(form, refusal)
        return render_customer_page(customer, user_form=form)
    return _show_link(user, token)


@blueprint.get("/users/<int:user_id>/link")
@access.operate
def ask_renew_link(user_id: int) -> ResponseReturnValue:
    """What happens to the user's login, before it does."""
    return render_dialog("admin/new_link.html", "admin/_new_link.html", user=_user_or_404(user_id))


@blueprint.post("/users/<int:user_id>/link")
@access.operate
def renew_link(user_id: int) -> ResponseReturnValue:
    user = _user_or_404(user_id)
    return _show_link(user, enrolment.start_over(context.conn(), context.keys(), context.actor(), user))


def _user_or_404(user_id: int) -> User:
    """A customer's user; operators look after each other in the shell."""
    try:
        user = users.by_id(context.conn(), user_id)
    except users.NoSuchUser:
        abort(404)
    return user if user.customer_id is not None else abort(404)


def _show_link(user: User, token: str) -> ResponseReturnValue:
    link = context.config().public_url + url_for("login.enrol", token=token)
    return render_dialog(
        "admin/once.html",
        "admin/_once.html",
        title=_("Enrolment link for %(email)s", email=user.email),
        text=_("Send it to them. It is good once, for seven days, and is not shown again."),
        values=[(_("Link"), link)],
        back=url_for("admin_customers.show_customer", customer_id=user.customer_id),
    )
