"""The operator's list of customers, and the page of one."""

from collections import defaultdict
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import accounts
from portal.services.billing import auto_recredit
from portal.services.common.errors import Refused
from portal.services.messages import text_policy
from portal.services.operations import daily_self_check
from portal.services.people import customers, users
from portal.services.people.customers import Customer
from portal.services.prices import price_lists
from portal.services.senders import senders
from portal.web.core import access, context, htmx, layout
from portal.web.core.forms import Form, attach

blueprint = Blueprint("admin_customers", __name__, url_prefix="/admin")


class CustomerForm(Form):
    name = StringField(N_("Name"))
    email = StringField(N_("Contact e-mail address"))


class UserForm(Form):
    email = StringField(N_("E-mail address"))
    role = SelectField(
        N_("Role"),
        choices=[
            SelectChoice(users.OWNER, N_("Owner")),
            SelectChoice(users.MANAGER, N_("Manager")),
            SelectChoice(users.VIEWER, N_("Viewer: changes nothing")),
        ],
    )


class AccountForm(Form):
    kind = SelectField(N_("Kind"), choices=[SelectChoice("smpp", "SMPP"), SelectChoice("sms", N_("SMS (classic)"))])
    name = StringField(N_("Name"))
    description = StringField(N_("Description"))


@blueprint.get("/")
@access.operate
def list_customers() -> ResponseReturnValue:
    """All customers with their accounts. Query: `q`, words that a customer or an account has to hold."""
    return _render_customers_page(CustomerForm())


@blueprint.post("/customers")
@access.operate
def add_customer() -> ResponseReturnValue:
    form = CustomerForm()
    try:
        customer = customers.add(context.conn(), context.actor(), form.name.data or "", form.email.data or "")
    except Refused as refusal:
        attach(form, refusal)
        return _render_customers_page(form)
    toast = htmx.Toast(_("%(name)s was added. Next: a user who can log in, and an account.", name=customer.name))
    return htmx.done(url_for("admin_customers.show_customer", customer_id=customer.id), toast)


def _render_customers_page(form: CustomerForm) -> ResponseReturnValue:
    conn, wanted = context.conn(), request.args.get("q", "").strip()
    of_customer: dict[int, list[layout.AccountView]] = defaultdict(list)
    for account in accounts.of_customer(conn):
        of_customer[account.customer_id].append(layout.account_view(account))
    found = []
    for customer in customers.everyone(conn):
        own = of_customer[customer.id]
        if not _any_contains(wanted, customer.name, customer.contact_email):
            own = [each for each in own if _any_contains(wanted, each.name, each.description)]
            if not own:
                continue
        found.append((customer, own))
    return htmx.page(
        "admin/page.html",
        status=422 if form.errors else 200,
        form=form,
        customers=found,
        q=wanted,
        waiting=senders.count_waiting(conn),
        check=daily_self_check.last(conn),
    )


def _any_contains(wanted: str, *texts: str) -> bool:
    return any(wanted.casefold() in each.casefold() for each in texts)


@blueprint.get("/customers/<int:customer_id>")
@access.operate
def show_customer(customer_id: int) -> ResponseReturnValue:
    return render_customer_page(access.customer_or_404(customer_id))


def render_customer_page(customer: Customer, **forms: Form) -> ResponseReturnValue:
    """The page of a customer.

    Args:
        forms: `user_form` or `account_form` where one was refused; the page keeps what was typed.
    """
    conn = context.conn()
    # Each form has a prefix, for both are on one page.
    values = {"user_form": UserForm(prefix="user-"), "account_form": AccountForm(prefix="account-")} | forms
    return htmx.page(
        "admin/customer.html",
        status=422 if any(each.errors for each in values.values()) else 200,
        customer=customer,
        users=users.of_customer(conn, customer.id),
        owed=auto_recredit.owed(conn, customer.id),
        customer_accounts=[layout.account_view(each) for each in accounts.of_customer(conn, customer.id)],
        price_lists=price_lists.lists(conn),
        usual_months=context.config().retention.messages_months,
        removing_texts=text_policy.removing(conn, customer.id),
        **values,
    )


def render_dialog(page: str, part: str, **values: Any) -> ResponseReturnValue:
    """What a customer's page opens in its dialog; without JavaScript it is a page of its own.

    Args:
        page, part: the templates of that page, and of what the dialog shows.
    """
    return htmx.parts(part, **values) if htmx.wanted() else htmx.page(page, **values)
