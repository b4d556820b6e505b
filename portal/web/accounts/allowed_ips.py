"""Options › SMPP settings: the addresses from which an account's clients may bind."""

from ipaddress import ip_address, ip_network
from itertools import chain
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core.i18n import N_, _
from portal.services.accounts import allowed_ips, session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.allowed_ips import AllowedIP
from portal.services.common.errors import Refused
from portal.web.accounts.accounts import GENERAL_PART, STATUS_PART, require_smpp_account
from portal.web.core import access, context, htmx, live
from portal.web.core.forms import TranslatedForm, refusals_on

blueprint = Blueprint("allowed_ips", __name__)
blueprint.before_request(require_smpp_account)


class AllowedIPForm(TranslatedForm):
    """`network` as typed; `expires` one of the choices, or itself a date and time; `until` with the choice `date`."""

    network = StringField(N_("IP address or range"))
    label = StringField(N_("Label"))
    expires = SelectField(
        N_("Expires"),
        choices=[
            SelectChoice("", N_("Never")),
            SelectChoice("8h", N_("In 8 hours")),
            SelectChoice("tonight", N_("Tonight")),
            SelectChoice("1d", N_("In 1 day")),
            SelectChoice("7d", N_("In 7 days")),
            SelectChoice("30d", N_("In 30 days")),
            SelectChoice("date", N_("On a date…")),
        ],
        validate_choice=False,
    )
    until = StringField(N_("Date and time"))


@blueprint.get("/accounts/<name>/options/smpp")
@blueprint.get("/accounts/<name>/ips", endpoint="list_allowed_ips")
@access.account_access_required
def show_smpp_settings(account: Account) -> ResponseReturnValue:
    """General information, authorised IPs, service status; for htmx the authorised IPs."""
    return _answer_form(account, AllowedIPForm())


@blueprint.post("/accounts/<name>/ips")
@access.account_change_required
def add_allowed_ip(account: Account) -> ResponseReturnValue:
    """Authorise an address. The status is UPDATING_IP until the server has confirmed it."""
    form = AllowedIPForm()
    with refusals_on(form):
        expiry_text = form.until.data if form.expires.data == "date" else form.expires.data
        expires_at = allowed_ips.parse_ip_expiry(expiry_text, context.get_config().timezone)
        allowed_ip = _add_within_limit(account, form.network.data, form.label.data, expires_at)
        toast = htmx.Toast(_("%(network)s was added.", network=allowed_ip.network))
        return _answer_form(account, AllowedIPForm(formdata=None), toast)
    return _answer_form(account, form)


def _add_within_limit(account: Account, network: str, label: str, expires_at: int | None) -> AllowedIP:
    limit = context.get_config().limits.ips_per_account
    return allowed_ips.add_allowed_ip(
        context.get_conn(), context.get_actor(), account, network, label=label, expires_at=expires_at, limit=limit
    )


def _answer_form(account: Account, form: AllowedIPForm, toast: htmx.Toast | None = None) -> ResponseReturnValue:
    status_part = live.render_live_fragments(account, live.STATUS_FRAGMENT, oob=True)
    # A button for one address was pressed: these are in other tiles too, which are redrawn with the list.
    if request.headers.get("HX-Target", "").startswith("authorise"):
        toast = toast or htmx.Toast(" ".join(chain.from_iterable(form.errors.values())), "err")
        return htmx.render_fragments("", *status_part, toast=toast, form=form)
    return htmx.answer_form(
        "accounts/allowed_ips/_tile.html",
        *(status_part if toast else ()),
        page="accounts/allowed_ips/settings.html",
        address=_settings_url(account),
        toast=toast,
        form=form,
        **live.build_live_page_values("options", account),
    )


@blueprint.delete("/accounts/<name>/ips/<int:ip_id>")
@blueprint.route("/accounts/<name>/ips/<int:ip_id>/delete", endpoint="remove_by_form", methods=["GET", "POST"])
@access.account_change_required
def remove_allowed_ip(account: Account, ip_id: int) -> ResponseReturnValue:
    """Remove an address, once that has been confirmed; sessions that only it allowed are closed."""
    if request.method in htmx.READING_METHODS:
        entry = allowed_ips.get_allowed_ip_by_id(context.get_conn(), account.id, ip_id)
        return htmx.render_dialog(
            "accounts/allowed_ips/_delete.html",
            account,
            title=_("Delete %(network)s", network=entry.network),
            tab="options",
            entry=entry,
            ending=_count_sessions_losing_access(account, entry),
        )
    allowed_ip = allowed_ips.remove_allowed_ip(context.get_conn(), context.get_actor(), account, ip_id)
    undo_url = url_for(
        ".restore_allowed_ip",
        name=account.name,
        network=allowed_ip.network,
        label=allowed_ip.label or None,
        expires=allowed_ip.expires_at,
    )
    toast = htmx.Toast(_("%(network)s was removed.", network=allowed_ip.network), undo=undo_url)
    # Not the whole tile: something may have been typed into its form.
    return htmx.answer_done(
        _settings_url(account),
        toast,
        *live.render_live_fragments(account, _LIST_PART),
        *live.render_live_fragments(account, _USED_PART, _ADD_PART, live.STATUS_FRAGMENT, oob=True),
    )


@blueprint.post("/accounts/<name>/ips/restore")
@access.account_change_required
def restore_allowed_ip(account: Account) -> ResponseReturnValue:
    """Undo a removal. Query: `network`, `label`, `expires` (milliseconds), as they were."""
    network = request.args.get("network", "")
    try:
        _add_within_limit(account, network, request.args.get("label", ""), request.args.get("expires", type=int))
    except Refused as refusal:
        toast = htmx.Toast(refusal.localized(), "err")
    else:
        toast = htmx.Toast(_("%(network)s is back in the list.", network=network))
    status_part = live.render_live_fragments(account, live.STATUS_FRAGMENT, oob=True)
    return htmx.answer_done(_settings_url(account), toast, "", *status_part)


# --- what the page shows


def _list_context(account: Account) -> dict[str, Any]:
    entries = allowed_ips.list_allowed_ips(context.get_conn(), account.id)
    limit = context.get_config().limits.ips_per_account
    client_ip = context.get_client_address()
    offer_client_ip = access.may_change() and len(entries) < limit and not allowed_ips.is_ip_allowed(entries, client_ip)
    return {
        "entries": entries,
        "limit": limit,
        "client_ip": client_ip if offer_client_ip and _is_valid_allowed_ip(client_ip) else "",
    }


def _is_valid_allowed_ip(address: str) -> bool:
    try:
        allowed_ips.parse_ip_network(address)
    except Refused:
        return False
    return True


def _count_sessions_losing_access(account: Account, entry: AllowedIP) -> int:
    conn = context.get_conn()
    other_entries = [each for each in allowed_ips.list_allowed_ips(conn, account.id) if each.id != entry.id]
    network = ip_network(entry.network)
    return sum(
        1
        for each in session_records.list_open_smpp_sessions(conn, account.id)
        if ip_address(each.address) in network and not allowed_ips.is_ip_allowed(other_entries, each.address)
    )


def _settings_url(account: Account) -> str:
    return url_for(".show_smpp_settings", name=account.name)


_USED_PART = live.LiveFragment("accounts/allowed_ips/_used.html", _list_context)
_LIST_PART = live.LiveFragment("accounts/allowed_ips/_list.html", _list_context)
_ADD_PART = live.LiveFragment("accounts/allowed_ips/_add.html", _list_context)
live.register_live_page("options", _USED_PART, _LIST_PART, _ADD_PART, GENERAL_PART, STATUS_PART)
