"""A customer's users, and the links with which they enrol."""

from flask import Blueprint, abort, url_for
from flask.typing import ResponseReturnValue

from portal.core.db import write_transaction
from portal.core.i18n import gettext as _
from portal.services.people import enrolment, users
from portal.services.people.customers import Customer
from portal.services.people.users import User
from portal.web.admin.customers import UserForm, render_customer_page
from portal.web.core import access, context, htmx
from portal.web.core.forms import refusals_on

blueprint = Blueprint("admin_users", __name__, url_prefix="/admin")


@blueprint.post("/customers/<int:customer_id>/users")
@access.operator_required
def create_user(customer: Customer) -> ResponseReturnValue:
    conn, form = context.get_conn(), UserForm(prefix="user-")
    with refusals_on(form):
        with write_transaction(conn):
            user = users.create_user(
                conn, context.get_crypto_keys(), context.get_actor(), form.email.data, form.role.data, customer.id
            )
            token = enrolment.create_enrolment_link(conn, user)
        return _render_enrolment_link(user, token)
    return render_customer_page(customer, user_form=form)


@blueprint.get("/users/<int:user_id>/link")
@access.operator_required
def ask_renew_enrolment_link(user_id: int) -> ResponseReturnValue:
    """Ask for confirmation: what happens to the user's login."""
    return htmx.render_dialog("admin/_new_link.html", title=_("New enrolment link?"), user=_get_user(user_id))


@blueprint.post("/users/<int:user_id>/link")
@access.operator_required
def renew_enrolment_link(user_id: int) -> ResponseReturnValue:
    user = _get_user(user_id)
    return _render_enrolment_link(
        user, enrolment.reset_enrolment(context.get_conn(), context.get_crypto_keys(), context.get_actor(), user)
    )


def _get_user(user_id: int) -> User:
    """A customer's user; operators are managed on the command line."""
    user = users.get_user_by_id(context.get_conn(), user_id)
    return user if user.customer_id is not None else abort(404)


def _render_enrolment_link(user: User, token: str) -> ResponseReturnValue:
    link = context.get_config().public_url + url_for("login.enrol", token=token)
    return htmx.render_dialog(
        "admin/_once.html",
        title=_("Enrolment link for %(email)s", email=user.email),
        text=_("Send it to them. It is good once, for seven days, and is not shown again."),
        values=[(_("Link"), link)],
        back=url_for("admin_customers.show_customer", customer_id=user.customer_id),
    )
