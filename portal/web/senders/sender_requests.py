"""The operator's side of senders: what waits for a decision, and what was decided."""

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import accounts
from portal.services.common.errors import Refused
from portal.services.senders import confusables, sender_requests, senders
from portal.services.senders.confusables import Resemblance
from portal.services.senders.senders import Request
from portal.web.core import access, context, htmx
from portal.web.core.htmx import Toast
from portal.web.senders.senders import state_of, type_of

blueprint = Blueprint("sender_queue", __name__, url_prefix="/admin")

_WAITING = "senders/requests/_waiting.html"
_RESEMBLANCES = {
    confusables.SAME: N_("%(customer)s (%(account)s) sends as %(address)s too"),
    confusables.REACHES: N_("What is sent to %(address)s reaches %(customer)s (%(account)s)"),
    confusables.LOOKS: N_("Looks like %(address)s of %(customer)s (%(account)s)"),
    confusables.NEAR: N_("One character away from %(address)s of %(customer)s (%(account)s)"),
    confusables.BEGINS: N_("Begins like %(address)s of %(customer)s (%(account)s)"),
}
# The others follow when these are decided on.
_WAITING_SHOWN = 5
_DECIDED_SHOWN = 20


@blueprint.get("/senders")
@access.operate
def index() -> ResponseReturnValue:
    """Those that wait, longest first, and those that were decided on. Query: `q`, words to find among the latter."""
    conn, words = context.conn(), request.args.get("q", "").strip()
    decided = senders.search(conn, words, _DECIDED_SHOWN + 1)
    requests = senders.waiting(conn, _WAITING_SHOWN)
    return htmx.page(
        "senders/requests/page.html",
        requests=requests,
        **_words(requests),
        **_counted(),
        decided=decided[:_DECIDED_SHOWN],
        more=len(decided) > _DECIDED_SHOWN,
        q=words,
    )


@blueprint.get("/senders/<int:sender_id>")
@access.operate
def one(sender_id: int) -> ResponseReturnValue:
    """One sender, to decide on it, or to decide otherwise."""
    return _page(sender_id)


@blueprint.post("/senders/<int:sender_id>")
@access.operate
def decide(sender_id: int) -> ResponseReturnValue:
    """Approve or refuse. The form carries the `mark` of what was seen."""
    conn, approve = context.conn(), request.form.get("decision") == "approve"
    comment = request.form.get("comment", "")
    try:
        found = senders.request(conn, sender_id)
        sender = sender_requests.decide(
            conn,
            context.keys(),
            context.actor(),
            accounts.by_name(conn, found.account),
            found.sender.address,
            approve=approve,
            comment=comment,
            mark=request.form.get("mark", ""),
        )
    except senders.NoSuchSender:
        toast = Toast(_("Nothing was decided: the sender has been removed meanwhile."), "warn")
        return htmx.parts("", _WAITING, toast=toast, **_counted()) if htmx.wanted() else _back(toast)
    except senders.TextTooLong as refusal:
        return _refused(sender_id, error=refusal.localized(), comment=comment)
    except Refused as refusal:
        return _refused(sender_id, error=refusal.localized())
    said = _("%(sender)s was approved.") if approve else _("%(sender)s was refused.")
    toast = Toast(said % {"sender": sender.address})
    return _tile(sender_id, toast=toast) if htmx.wanted() else _back(toast)


def _back(toast: Toast) -> ResponseReturnValue:
    return htmx.done(url_for(".index"), toast)


def _refused(sender_id: int, **values: Any) -> ResponseReturnValue:
    return _tile(sender_id, status=422, **values) if htmx.wanted() else _page(sender_id, status=422, **values)


def _page(sender_id: int, *, status: int = 200, **values: Any) -> ResponseReturnValue:
    found = _request(sender_id)
    return htmx.page("senders/requests/one.html", status=status, asked=found, **_words([found]), **values)


def _tile(sender_id: int, *, status: int = 200, toast: Toast | None = None, **values: Any) -> ResponseReturnValue:
    """One request as it is now, and how many wait."""
    found = _request(sender_id)
    return htmx.parts(
        "senders/requests/_request.html",
        _WAITING,
        status=status,
        toast=toast,
        asked=found,
        **_words([found]),
        **_counted(),
        **values,
    )


def _counted() -> dict[str, Any]:
    return {"waiting": senders.count_waiting(context.conn())}


def _request(sender_id: int) -> Request:
    try:
        return senders.request(context.conn(), sender_id)
    except senders.NoSuchSender:
        abort(404)


def _words(requests: Sequence[Request]) -> dict[str, Any]:
    """How the templates put them into words."""
    resembled = confusables.of(context.conn(), [each.sender for each in requests])
    return {
        "resembled": {key: [_sentence(each) for each in found] for key, found in resembled.items()},
        "state_of": state_of,
        "type_of": type_of,
    }


def _sentence(each: Resemblance) -> str:
    words = {"address": each.address, "account": each.account, "customer": each.customer}
    return _(_RESEMBLANCES[each.how], **words)
