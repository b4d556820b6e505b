"""The operator's list of customers, and the page of one: its users, and the links with which they enrol."""

from collections import defaultdict

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core.db import write_transaction
from portal.core.i18n import N_, _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit
from portal.services.messages import text_policy
from portal.services.operations import daily_self_check
from portal.services.people import customers, enrolment, users
from portal.services.people.customers import Customer
from portal.services.people.users import User
from portal.services.prices import price_lists
from portal.services.senders import senders
from portal.web.core import access, context, htmx
from portal.web.core.forms import TranslatedForm, refusals_on

blueprint = Blueprint("admin_customers", __name__, url_prefix="/admin")


class CustomerForm(TranslatedForm):
    name = StringField(N_("Name"))
    email = StringField(N_("Contact e-mail address"))


class UserForm(TranslatedForm):
    email = StringField(N_("E-mail address"))
    role = SelectField(
        N_("Role"),
        choices=[
            SelectChoice(users.OWNER, N_("Owner")),
            SelectChoice(users.MANAGER, N_("Manager")),
            SelectChoice(users.VIEWER, N_("Viewer: changes nothing")),
        ],
    )


class AccountForm(TranslatedForm):
    kind = SelectField(N_("Kind"), choices=[SelectChoice("smpp", "SMPP"), SelectChoice("sms", N_("SMS (classic)"))])
    name = StringField(N_("Name"))
    description = StringField(N_("Description"))


@blueprint.get("/")
@access.operator_required
def list_customers() -> ResponseReturnValue:
    """All customers with their accounts. Query: `q`, words that a customer or an account has to hold."""
    return _render_customers_page(CustomerForm())


@blueprint.post("/customers")
@access.operator_required
def create_customer() -> ResponseReturnValue:
    form = CustomerForm()
    with refusals_on(form):
        customer = customers.create_customer(context.get_conn(), context.get_actor(), form.name.data, form.email.data)
        toast = htmx.Toast(_("%(name)s was added. Next: a user who can log in, and an account.", name=customer.name))
        return htmx.redirect_after_post(url_for(".show_customer", customer_id=customer.id), toast)
    return _render_customers_page(form)


def _render_customers_page(form: CustomerForm) -> ResponseReturnValue:
    conn, query = context.get_conn(), request.args.get("q", "").strip()
    accounts_by_customer: dict[int, list[Account]] = defaultdict(list)
    for account in accounts.list_accounts(conn):
        accounts_by_customer[account.customer_id].append(account)
    matches = []
    for customer in customers.list_all_customers(conn):
        own_accounts = accounts_by_customer[customer.id]
        if not _any_contains(query, customer.name, customer.contact_email):
            own_accounts = [each for each in own_accounts if _any_contains(query, each.name, each.description)]
            if not own_accounts:
                continue
        matches.append((customer, own_accounts))
    return htmx.render_page(
        "admin/page.html",
        form=form,
        customers=matches,
        q=query,
        waiting=senders.count_pending_sender_requests(conn),
        check=daily_self_check.find_last_result(conn),
        check_command=context.get_config().format_command("check"),
    )


def _any_contains(query: str, *texts: str) -> bool:
    return any(query.casefold() in each.casefold() for each in texts)


@blueprint.get("/customers/<int:customer_id>")
@access.operator_required
def show_customer(customer: Customer) -> ResponseReturnValue:
    return render_customer_page(customer)


def render_customer_page(customer: Customer, **forms: TranslatedForm) -> ResponseReturnValue:
    """The page of a customer.

    Args:
        forms: `user_form` or `account_form` where one was refused; the page keeps what was typed.
    """
    conn = context.get_conn()
    # Each form has a prefix, for both are on one page.
    values = {"user_form": UserForm(prefix="user-"), "account_form": AccountForm(prefix="account-")} | forms
    return htmx.render_page(
        "admin/customer.html",
        customer=customer,
        users=users.list_users(conn, customer.id),
        owed=auto_recredit.get_owed_credits(conn, customer.id),
        customer_accounts=accounts.list_accounts(conn, customer.id),
        price_lists=price_lists.list_price_lists(conn),
        default_months=context.get_config().retention.messages_months,
        removing_texts=text_policy.is_removing_texts(conn, customer.id),
        **values,
    )


# --- its users


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


@blueprint.route("/users/<int:user_id>/link", methods=["GET", "POST"])
@access.operator_required
def renew_enrolment_link(user_id: int) -> ResponseReturnValue:
    """Make a new link, once what happens to the user's login has been confirmed."""
    user = users.get_user_by_id(context.get_conn(), user_id)
    if user.customer_id is None:
        abort(404)  # Operators are managed on the command line.
    if request.method != "POST":
        return htmx.render_dialog("admin/_new_link.html", title=_("New enrolment link?"), user=user)
    return _render_enrolment_link(
        user, enrolment.reset_enrolment(context.get_conn(), context.get_crypto_keys(), context.get_actor(), user)
    )


def _render_enrolment_link(user: User, token: str) -> ResponseReturnValue:
    link = context.get_config().public_url + url_for("login.enrol", token=token)
    return htmx.render_dialog(
        "admin/_once.html",
        title=_("Enrolment link for %(email)s", email=user.email),
        text=_("Send it to them. It is good once, for seven days, and is not shown again."),
        values=[(_("Link"), link)],
        back=url_for(".show_customer", customer_id=user.customer_id),
    )
