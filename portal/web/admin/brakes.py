"""Brakes, for operators: unusual traffic of all accounts, and what new accounts get."""

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue

from portal.core.i18n import _
from portal.services.brakes import brakes, unusual_traffic
from portal.web.core import access, brake_forms, context, htmx
from portal.web.core.brake_forms import BrakesForm

blueprint = Blueprint("admin_brakes", __name__, url_prefix="/admin")

_MAX_EVENTS_SHOWN = 100


@blueprint.get("/brakes")
@access.operator_required
def show_brakes() -> ResponseReturnValue:
    return _answer_form()


@blueprint.post("/brakes")
@access.operator_required
def change_default_brakes() -> ResponseReturnValue:
    """Set what new accounts get."""
    form, conn = BrakesForm(), context.get_conn()
    with brake_forms.brake_refusals_on(form):
        brakes.set_default_brakes(conn, context.get_actor(), form.to_brakes(), seen=form.seen.data)
        return _answer_form(toast=htmx.Toast(_("The brakes of new accounts were changed.")))
    return _answer_form(form)


def _answer_form(form: BrakesForm | None = None, toast: htmx.Toast | None = None) -> ResponseReturnValue:
    conn = context.get_conn()
    return htmx.answer_form(
        "admin/_default_brakes.html",
        page="admin/brakes.html",
        address=url_for(".show_brakes"),
        toast=toast,
        form=form or brake_forms.draw_form(BrakesForm, brakes.get_default_brakes(conn)),
        events=unusual_traffic.list_latest_events(conn, _MAX_EVENTS_SHOWN),
    )
