"""The source addresses that an account's messages may carry."""

from typing import Any

from flask import Blueprint, abort, url_for
from flask.typing import ResponseReturnValue
from wtforms import StringField, TextAreaField

from portal.i18n import N_
from portal.i18n import gettext as _
from portal.services import routes, senders
from portal.services.accounts import Account
from portal.services.errors import Refused
from portal.services.live import Pulse
from portal.services.senders import Sender
from portal.web import access, context, htmx, live, shell
from portal.web.forms import Form, attach
from portal.web.htmx import Toast
from portal.web.live import Part

blueprint = Blueprint("senders", __name__)

_TYPES = {
    senders.ALPHA: N_("Letters and digits"),
    senders.SHORTCODE: N_("Short code"),
    senders.NUMERIC: N_("Number"),
    senders.VIRTUAL: N_("Virtual number"),
}
# The words for a state, and how its badge looks: kind and icon.
_STATES = {
    senders.ENABLED: (N_("Enabled"), "ok", "check"),
    senders.DISABLED: (N_("Disabled"), "mute", "ban"),
    senders.WAITING: (N_("Waiting for a decision"), "warn", "clock"),
    senders.REFUSED: (N_("Refused"), "err", "error"),
}


class SenderForm(Form):
    sender = StringField(N_("Sender"))
    description = StringField(N_("Description"))
    reason = TextAreaField(N_("What it is for"))


@blueprint.get("/accounts/<name>/senders")
@access.see_account
def listed(account: Account) -> ResponseReturnValue:
    return _page(account, SenderForm())


@blueprint.post("/accounts/<name>/senders")
@access.change_account
def add(account: Account) -> ResponseReturnValue:
    """Ask for a sender; it waits for the operator's decision."""
    form = SenderForm()
    try:
        added = senders.add(
            context.conn(),
            context.actor(),
            account,
            form.sender.data or "",
            description=form.description.data or "",
            reason=form.reason.data or "",
        )
    except Refused as refusal:
        attach(form, refusal, address="sender")
        if htmx.wanted():
            return htmx.parts("senders/_tile.html", status=422, **_tile(account, form))
        return _page(account, form, status=422)
    toast = Toast(_("%(sender)s was added. It can be used once it has been approved.", sender=added.address))
    if htmx.wanted():
        return htmx.parts("senders/_tile.html", toast=toast, changed=True, **_tile(account, SenderForm(formdata=None)))
    return htmx.done(url_for(".listed", name=account.name), toast)


@blueprint.get("/accounts/<name>/senders/<int:sender_id>/delete")
@access.change_account
def ask(account: Account, sender_id: int) -> ResponseReturnValue:
    """The question before a sender is removed."""
    sender = _sender(account, sender_id)
    title = _("Delete %(sender)s", sender=sender.address)
    return htmx.dialog("senders/_delete.html", account, title=title, tab="senders", sender=sender)


@blueprint.delete("/accounts/<name>/senders/<int:sender_id>")
@blueprint.post("/accounts/<name>/senders/<int:sender_id>/delete", endpoint="remove_by_form")
@access.change_account
def remove(account: Account, sender_id: int) -> ResponseReturnValue:
    """Remove a sender; messages that carry it are refused from then on."""
    try:
        removed = senders.remove(context.conn(), context.actor(), account, sender_id)
    except senders.NoSuchSender:
        abort(404)
    toast = Toast(_("%(sender)s was removed.", sender=removed.address))
    if htmx.wanted():
        return htmx.parts(*live.draw(account, _LIST).values(), toast=toast, changed=True)
    return htmx.done(url_for(".listed", name=account.name), toast)


def _page(account: Account, form: SenderForm, *, status: int = 200) -> ResponseReturnValue:
    numbers = routes.of_account(context.conn(), account.id)
    return live.show("senders/page.html", "senders", account, status=status, form=form, routes=numbers)


def _sender(account: Account, sender_id: int) -> Sender:
    found = (each for each in senders.of_account(context.conn(), account.id) if each.id == sender_id)
    return next(found, None) or abort(404)


def _tile(account: Account, form: SenderForm) -> dict[str, Any]:
    return {
        "account": shell.account_view(account),
        "may_change": access.may_change(),
        "parts": live.draw(account, _LIST),
        "form": form,
    }


def _list(account: Account, pulse: Pulse) -> dict[str, Any]:
    return {
        "senders": senders.of_account(context.conn(), account.id),
        "types": {name: _(label) for name, label in _TYPES.items()},
        "states": {name: (_(label), kind, sign) for name, (label, kind, sign) in _STATES.items()},
        "any_sender": account.any_sender,
    }


_LIST = Part("senders/_list.html", lambda account, pulse: pulse.settings, _list)
live.register("senders", _LIST)
