"""Sender requests, for operators: those that wait for a decision, and those that were decided."""

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from portal.core.i18n import N_, _
from portal.services.accounts import accounts
from portal.services.common.errors import Refused
from portal.services.senders import confusables, senders
from portal.services.senders.confusables import SimilarSender
from portal.services.senders.senders import SenderRequest
from portal.web.core import access, context, htmx
from portal.web.senders.senders import describe_sender_status, describe_sender_type

blueprint = Blueprint("sender_requests", __name__, url_prefix="/admin")

_WAITING_TEMPLATE = "senders/requests/_waiting.html"
_SIMILARITY_TEXTS = {
    confusables.IDENTICAL: N_("%(customer)s (%(account)s) sends as %(address)s too"),
    confusables.INBOUND_NUMBER: N_("What is sent to %(address)s reaches %(customer)s (%(account)s)"),
    confusables.LOOKALIKE: N_("Looks like %(address)s of %(customer)s (%(account)s)"),
    confusables.ONE_EDIT_AWAY: N_("One character away from %(address)s of %(customer)s (%(account)s)"),
    confusables.COMMON_PREFIX: N_("Begins like %(address)s of %(customer)s (%(account)s)"),
}
# The others are shown when these have been decided.
_MAX_WAITING = 5
_MAX_DECIDED = 20


@blueprint.get("/senders")
@access.operator_required
def list_sender_requests() -> ResponseReturnValue:
    """The pending ones, oldest first, and the decided ones. Query: `q`, a search in the latter."""
    conn, search_text = context.get_conn(), request.args.get("q", "").strip()
    decided = senders.search_decided_senders(conn, search_text, _MAX_DECIDED + 1)
    requests = senders.list_pending_sender_requests(conn, _MAX_WAITING)
    return htmx.render_page(
        "senders/requests/page.html",
        requests=requests,
        **_sender_request_context(requests),
        decided=decided[:_MAX_DECIDED],
        more=len(decided) > _MAX_DECIDED,
        q=search_text,
    )


@blueprint.route("/senders/<int:sender_id>", methods=["GET", "POST"])
@access.operator_required
def decide_sender_request(sender_id: int) -> ResponseReturnValue:
    """Show one sender; approve or refuse it. The form carries as `mark` the revision that was seen."""
    if request.method != "POST":
        return htmx.render_page("senders/requests/one.html", **_one_request_context(sender_id))
    conn, approve = context.get_conn(), request.form.get("decision") == "approve"
    list_url, comment = url_for(".list_sender_requests"), request.form.get("comment", "")
    toast = None
    values: dict[str, Any] = {}
    try:
        sender_request = senders.get_sender_request(conn, sender_id)
        sender = senders.decide_sender(
            conn,
            context.get_actor(),
            accounts.get_account(conn, sender_request.account),
            sender_request.sender.address,
            approve=approve,
            comment=comment,
            revision=request.form.get("mark", ""),
            mail_keys=context.get_crypto_keys(),
        )
        toast_text = _("%(sender)s was approved.") if approve else _("%(sender)s was refused.")
        toast = htmx.Toast(toast_text % {"sender": sender.address})
    except senders.NoSuchSender:
        toast = htmx.Toast(_("Nothing was decided: the sender has been removed meanwhile."), "warn")
        return htmx.answer_done(list_url, toast, "", _WAITING_TEMPLATE, **_sender_request_context([]))
    except Refused as refusal:
        values = {"status": 422, "error": refusal.localized(), "comment": comment}
    values |= _one_request_context(sender_id)
    return htmx.answer_form(
        "senders/requests/_request.html",
        *([_WAITING_TEMPLATE] if toast else []),
        page="senders/requests/one.html",
        address=list_url,
        toast=toast,
        **values,
    )


def _one_request_context(sender_id: int) -> dict[str, Any]:
    sender_request = senders.get_sender_request(context.get_conn(), sender_id)
    return {"sender_request": sender_request, **_sender_request_context([sender_request])}


def _sender_request_context(requests: Sequence[SenderRequest]) -> dict[str, Any]:
    """The variables of the templates that describe requests."""
    similar_senders = confusables.find_similar_senders(context.get_conn(), [each.sender for each in requests])
    return {
        "similar_senders": {
            key: [_describe_similar_sender(each) for each in similar] for key, similar in similar_senders.items()
        },
        "waiting": senders.count_pending_sender_requests(context.get_conn()),
        "describe_status": describe_sender_status,
        "describe_type": describe_sender_type,
    }


def _describe_similar_sender(similar: SimilarSender) -> str:
    params = {"address": similar.address, "account": similar.account, "customer": similar.customer}
    return _(_SIMILARITY_TEXTS[similar.kind], **params)
