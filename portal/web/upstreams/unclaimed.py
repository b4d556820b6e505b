"""Operators' pages of what belongs to nobody here: receipts that match nothing, with the setting by which they would,
and messages from handsets that no account takes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import HiddenField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core.i18n import N_, _
from portal.services.accounts import accounts
from portal.services.common.errors import Refused
from portal.services.messages import inbound_numbers, kept_receipts
from portal.services.messages.kept_receipts import ReceiptHint
from portal.services.upstreams import unclaimed, upstreams
from portal.services.upstreams.unclaimed import UNMATCHED_RECEIPTS, UNOWNED_MESSAGES
from portal.services.upstreams.upstreams import UpstreamChanged
from portal.web.core import access, context, htmx, paging
from portal.web.core.forms import GetForm, OnceForm, parse_row_id, refusals_on

blueprint = Blueprint("unclaimed", __name__, url_prefix="/admin/upstreams")

_HINT_SETTINGS = ("message_ids", "receipt_id_from", "receipt_id_pattern")


class _FilterForm(GetForm):
    upstream = SelectField(N_("Upstream"), validate_choice=False)


class _HintForm(OnceForm):
    """`version`: of the upstream that its reader has seen."""

    version = HiddenField()


class _NumberForm(OnceForm):
    number = StringField(N_("Number"))
    account = StringField(N_("Account"))
    keyword = StringField(N_("Keyword"))


def _read_filter() -> tuple[_FilterForm, int | None]:
    """The form of the list, and the id of the upstream that it is restricted to."""
    form = _FilterForm(request.args)
    names = {str(each.id): each.name for each in upstreams.list_upstreams(context.get_conn())}
    form.upstream.choices = [SelectChoice("", _("Any")), *(SelectChoice(*each) for each in names.items())]
    if form.upstream.data not in names:
        form.upstream.data = ""
    return form, int(form.upstream.data) if form.upstream.data else None


def _build_list_values(table: str) -> dict[str, Any]:
    form, upstream_id = _read_filter()
    conn = context.get_conn()
    return {
        "filter": form,
        "upstream_id": upstream_id,
        "query": f"upstream={upstream_id}&" if upstream_id else "",
        "page": paging.paginate(partial(unclaimed.list_kept, conn, table, upstream_id)),
        "names": upstreams.get_upstream_names(conn),
    }


# --- receipts


@blueprint.get("/unmatched")
@access.operator_required
def list_unmatched_receipts() -> ResponseReturnValue:
    """Newest first; the first page has what is likely. Query: `upstream` (its id), and `before` or `after`, which turn
    the page.
    """
    values = _build_list_values(UNMATCHED_RECEIPTS)
    # They are costly, and of all pages.
    is_first_page = not any(each in request.args for each in paging.PAGING_ARGS)
    found: Sequence[ReceiptHint] = ()
    if is_first_page:
        found = kept_receipts.find_hints(context.get_conn(), values["upstream_id"])
    hints = [(each, _HintForm(data={"version": each.upstream.version})) for each in found]
    return htmx.render_page("upstreams/unmatched.html", hints=hints, **values)


@blueprint.post("/<int:upstream_id>/receipt-ids")
@access.operator_required
def set_receipt_ids(upstream_id: int) -> ResponseReturnValue:
    """Set what a hint says, as it was read; what somebody else has changed meanwhile stays."""
    conn = context.get_conn()
    upstream = upstreams.get_upstream_by_id(conn, upstream_id)
    form = _HintForm()
    changes = {name: request.form[name] for name in _HINT_SETTINGS if name in request.form}
    if not changes:
        abort(400)
    address = url_for(".list_unmatched_receipts", upstream=upstream_id)
    version = parse_row_id(form.version.data)
    toast = htmx.Toast(_("It is set. Receipts that match now leave the list within a moment."))
    try:
        keys, actor = context.get_crypto_keys(), context.get_actor()
        with htmx.once(address):
            upstreams.change_upstream(conn, keys, actor, upstream, expected_version=version, **changes)
    except UpstreamChanged:
        sentence = _("“%(name)s” was changed by somebody else: see what is likely now.", name=upstream.name)
        toast = htmx.Toast(sentence, "err")
    except Refused as error:
        toast = htmx.Toast(error.localized(), "err")
    return htmx.redirect_browser_or_htmx(address, toast)


# --- messages from handsets


@blueprint.get("/unowned")
@access.operator_required
def list_unowned_messages() -> ResponseReturnValue:
    """Newest first. Query: as that of `list_unmatched_receipts`."""
    return htmx.render_page("upstreams/unowned.html", **_build_list_values(UNOWNED_MESSAGES))


@blueprint.route("/unowned/add", methods=["GET", "POST"])
@access.operator_required
def add_number() -> ResponseReturnValue:
    """Let an account have what is sent to a number from now on. Query: `number`."""
    conn = context.get_conn()
    form = _NumberForm() if request.method == "POST" else _NumberForm(data={"number": request.args.get("number", "")})
    if request.method == "POST":
        with refusals_on(form, name="account"), htmx.once(url_for(".list_unowned_messages")):
            account = accounts.get_account(conn, form.account.data.strip())
            added = inbound_numbers.add_inbound_number(
                conn, context.get_actor(), account, form.number.data, form.keyword.data
            )
            toast = htmx.Toast(_("What is sent to %(number)s reaches %(account)s.", number=added, account=account.name))
            return htmx.redirect_browser_or_htmx(url_for(".list_unowned_messages"), toast)
    return htmx.render_dialog("upstreams/_add_number.html", title=_("Add the number to an account"), form=form)
