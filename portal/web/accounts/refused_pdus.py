"""The last refused PDUs of an account, which the SMPP server has in memory where somebody wants to debug a client."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from portal.core import query_socket
from portal.core.i18n import _
from portal.services.accounts import refused_pdus
from portal.services.accounts.accounts import Account
from portal.services.accounts.refused_pdus import RefusedPdu
from portal.services.messages import refusal_remedies
from portal.web.accounts.accounts import require_smpp_account
from portal.web.core import access, context, htmx, live

blueprint = Blueprint("refused_pdus", __name__)
blueprint.before_request(require_smpp_account)

_PART = "accounts/refused/_pdus.html"


@dataclass(frozen=True, slots=True)
class PduRow:
    """`why`: in words."""

    pdu: RefusedPdu
    why: str


@blueprint.get("/accounts/<name>/refused/pdus")
@access.account_access_required
@access.polled
def list_refused_pdus(account: Account) -> ResponseReturnValue:
    """Those of the last hour, newest first; for htmx the part that changes. Query: `seen`, see `answer_part_poll`."""
    if htmx.is_htmx_request():
        return live.answer_part_poll(_render_part(account, oob=True), ".list_refused_pdus", name=account.name)
    part = _render_part(account)
    return htmx.render_page(
        "accounts/refused/pdus.html",
        account=account,
        tab="sessions",
        part=part,
        kept_until=refused_pdus.get_kept_until(context.get_conn(), account.id),
        most=refused_pdus.MAX_PDUS,
        **live.build_part_poll(part, ".list_refused_pdus", name=account.name),
    )


@blueprint.post("/accounts/<name>/refused/pdus")
@access.account_change_required
def set_refused_pdus_kept(account: Account) -> ResponseReturnValue:
    """Have them kept, or not. Form: `keep`."""
    kept = "keep" in request.form
    refused_pdus.set_refused_pdus_kept(context.get_conn(), context.get_actor(), account, kept=kept)
    toast = _("Refused PDUs are kept from now on.") if kept else _("Refused PDUs are not kept any more.")
    return htmx.redirect_browser_or_htmx(url_for(".list_refused_pdus", name=account.name), htmx.Toast(toast))


def _render_part(account: Account, *, oob: bool = False) -> Markup:
    try:
        rows, is_silent = _list_rows(account), False
    except query_socket.SmppServerSilent:
        rows, is_silent = [], True
    return Markup(render_template(_PART, account=account, rows=rows, is_silent=is_silent, oob=oob))


def _list_rows(account: Account) -> Sequence[PduRow]:
    question = {"ask": refused_pdus.REFUSED_PDUS_QUERY, "account_id": account.id}
    answer = query_socket.ask_smpp_server(context.get_config().data, question)
    return [PduRow(each, _explain(each)) for each in (RefusedPdu(**values) for values in answer)]


def _explain(refused: RefusedPdu) -> str:
    reason = refused.reason or refusal_remedies.NO_CREDITS
    return refusal_remedies.describe_refusal(
        is_bind=refused.command.startswith("bind"), reason=reason, value=refused.value
    )
