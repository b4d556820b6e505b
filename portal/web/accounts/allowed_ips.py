"""Options › SMPP settings: the addresses from which an account's clients may bind."""

from ipaddress import ip_address, ip_network
from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import allowed_ips, session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.allowed_ips import AllowedIP
from portal.services.accounts.change_counters import Pulse
from portal.services.common.errors import Refused
from portal.web.accounts.accounts import GENERAL, STATUS
from portal.web.core import access, context, htmx, layout, live
from portal.web.core.forms import Form, attach
from portal.web.core.htmx import Toast
from portal.web.core.live import Part

blueprint = Blueprint("ips", __name__)


class AddForm(Form):
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
@blueprint.get("/accounts/<name>/ips", endpoint="listed")
@access.see_account
def settings(account: Account) -> ResponseReturnValue:
    """General information, authorised IPs, service status; for htmx the authorised IPs."""
    _only_smpp(account)
    if htmx.wanted():
        return htmx.parts("accounts/allowed_ips/_tile.html", **_tile(account, AddForm()))
    return _page(account, AddForm())


@blueprint.post("/accounts/<name>/ips")
@access.change_account
def add(account: Account) -> ResponseReturnValue:
    """Authorise an address. The status is UPDATING_IP until the server has confirmed it."""
    _only_smpp(account)
    form = AddForm()
    try:
        added = _add(account, form.network.data or "", form.label.data or "", _expiry(form))
    except Refused as refusal:
        attach(form, refusal)
        return _refused(account, form, refusal)
    toast = Toast(_("%(network)s was added.", network=added.network))
    if not htmx.wanted():
        return htmx.done(_address(account), toast)
    status = live.draw(account, live.STATUS, oob=True).values()
    if _is_one_click():
        return htmx.parts("", *status, toast=toast, changed=True)
    return htmx.parts(
        "accounts/allowed_ips/_tile.html", *status, toast=toast, changed=True, **_tile(account, AddForm(formdata=None))
    )


def _add(account: Account, network: str, label: str, expires_at: int | None) -> AllowedIP:
    limit = context.config().limits.ips_per_account
    return allowed_ips.add(
        context.conn(), context.actor(), account, network, label=label, expires_at=expires_at, limit=limit
    )


def _expiry(form: AddForm) -> int | None:
    chosen = form.until.data if form.expires.data == "date" else form.expires.data
    return allowed_ips.expiry(chosen or "", context.config().timezone)


def _refused(account: Account, form: AddForm, refusal: Refused) -> ResponseReturnValue:
    if not htmx.wanted():
        return _page(account, form, status=422)
    if _is_one_click():
        return htmx.parts("", status=422, toast=Toast(refusal.localized(), "err"))
    return htmx.parts("accounts/allowed_ips/_tile.html", status=422, **_tile(account, form))


def _is_one_click() -> bool:
    """A button that authorises one address stands in other tiles too, and is redrawn by what follows the list."""
    return request.headers.get("HX-Target", "").startswith("authorise")


@blueprint.get("/accounts/<name>/ips/<int:ip_id>/delete")
@access.change_account
def ask(account: Account, ip_id: int) -> ResponseReturnValue:
    """The question before an address is removed."""
    entry = _entry(account, ip_id)
    return htmx.dialog(
        "accounts/allowed_ips/_delete.html",
        account,
        title=_("Delete %(network)s", network=entry.network),
        tab="options",
        entry=entry,
        ending=_sessions_that_end(account, entry),
    )


@blueprint.delete("/accounts/<name>/ips/<int:ip_id>")
@blueprint.post("/accounts/<name>/ips/<int:ip_id>/delete", endpoint="remove_by_form")
@access.change_account
def remove(account: Account, ip_id: int) -> ResponseReturnValue:
    """Remove an address; sessions that only it allowed are closed."""
    try:
        removed = allowed_ips.remove(context.conn(), context.actor(), account, ip_id)
    except allowed_ips.NoSuchIP:
        abort(404)
    undo = url_for(
        ".restore",
        name=account.name,
        network=removed.network,
        label=removed.label or None,
        expires=removed.expires_at,
    )
    toast = Toast(_("%(network)s was removed.", network=removed.network), undo=undo)
    if not htmx.wanted():
        return htmx.done(_address(account), toast)
    # Not the whole tile: something may have been typed into its form.
    around = live.draw(account, _USED, _ADD, live.STATUS, oob=True)
    return htmx.parts(*live.draw(account, _LIST).values(), *around.values(), toast=toast, changed=True)


@blueprint.post("/accounts/<name>/ips/restore")
@access.change_account
def restore(account: Account) -> ResponseReturnValue:
    """Undo a removal. Query: `network`, `label`, `expires` (milliseconds), as they were."""
    network = request.args.get("network", "")
    try:
        _add(account, network, request.args.get("label", ""), request.args.get("expires", type=int))
    except Refused as refusal:
        toast = Toast(refusal.localized(), "err")
    else:
        toast = Toast(_("%(network)s is back in the list.", network=network))
    if not htmx.wanted():
        return htmx.done(_address(account), toast)
    return htmx.parts("", *live.draw(account, live.STATUS, oob=True).values(), toast=toast, changed=True)


# --- what the page shows


def _page(account: Account, form: AddForm, status: int = 200) -> ResponseReturnValue:
    return live.show("accounts/allowed_ips/settings.html", "options", account, status=status, form=form)


def _tile(account: Account, form: AddForm) -> dict[str, Any]:
    return {
        "account": layout.account_view(account),
        "may_change": access.may_change(),
        "parts": live.draw(account, _USED, _LIST, _ADD),
        "form": form,
    }


def _list(account: Account, pulse: Pulse) -> dict[str, Any]:
    entries = allowed_ips.of_account(context.conn(), account.id)
    limit = context.config().limits.ips_per_account
    here = context.client_address()
    offered = access.may_change() and len(entries) < limit and not allowed_ips.permits(entries, here)
    return {"entries": entries, "limit": limit, "here": here if offered and _may_bind(here) else ""}


def _may_bind(address: str) -> bool:
    try:
        allowed_ips.parse(address)
    except Refused:
        return False
    return True


def _entry(account: Account, ip_id: int) -> AllowedIP:
    try:
        return allowed_ips.by_id(context.conn(), account.id, ip_id)
    except allowed_ips.NoSuchIP:
        abort(404)


def _sessions_that_end(account: Account, entry: AllowedIP) -> int:
    conn = context.conn()
    others = [each for each in allowed_ips.of_account(conn, account.id) if each.id != entry.id]
    within = ip_network(entry.network)
    return sum(
        1
        for each in session_records.of_account(conn, account.id)
        if ip_address(each.address) in within and not allowed_ips.permits(others, each.address)
    )


def _only_smpp(account: Account) -> None:
    if account.kind != "smpp":
        abort(404)


def _address(account: Account) -> str:
    return url_for(".settings", name=account.name)


def _ground(account: Account, pulse: Pulse) -> tuple[int, int, str]:
    return pulse.settings, pulse.authorised, context.client_address()


_USED = Part("accounts/allowed_ips/_used.html", _ground, _list)
_LIST = Part("accounts/allowed_ips/_list.html", _ground, _list, ages=True)
_ADD = Part("accounts/allowed_ips/_add.html", _ground, _list)
live.register("options", _USED, _LIST, _ADD, GENERAL, STATUS)
