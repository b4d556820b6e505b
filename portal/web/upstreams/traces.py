"""Operators' page of the PDUs of one upstream: traced for some minutes, live."""

from datetime import datetime
from functools import partial
from typing import Any
from zlib import crc32
from zoneinfo import ZoneInfo

from flask import Blueprint, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from wtforms import StringField

from portal.core.clock import now_ms
from portal.core.i18n import N_, _
from portal.services.upstreams import traces, upstreams
from portal.services.upstreams.upstreams import SMPP, Upstream
from portal.web.core import access, context, htmx, paging
from portal.web.core.forms import OnceForm, refusals_on

blueprint = Blueprint("upstream_traces", __name__, url_prefix="/admin/upstreams")

_PART = "upstreams/_trace.html"
_PAGE_SIZE = 50
# After its end the server may still have some that are not on disk.
_LAST_PDUS_MS = 3_000


class TraceForm(OnceForm):
    minutes = StringField(N_("Minutes"), default="5")


@blueprint.route("/<int:upstream_id>/trace", methods=["GET", "POST"])
@access.operator_required
@access.polled
def show_trace(upstream_id: int) -> ResponseReturnValue:
    """The PDUs that were traced, newest first. A POST starts a trace.

    Query: `before` or `after`, which turn the page; `seen`: what the answer before has said of the open page, which
    gets 204 where it looks as it did.
    """
    conn = context.get_conn()
    upstream = upstreams.get_upstream_by_id(conn, upstream_id)
    form = TraceForm()
    if request.method == "POST":
        with refusals_on(form), htmx.once(url_for(".show_trace", upstream_id=upstream.id)):
            traces.start_trace(conn, context.get_actor(), upstream, form.minutes.data)
            return _redirect(upstream, _("The PDUs of %(name)s are traced.", name=upstream.name))
    part = _render_part(upstream)
    seen = f"{crc32(part.encode()):x}"
    if request.method != "POST" and htmx.is_htmx_request():
        if request.args.get("seen") == seen:
            return "", 204
        return htmx.render_fragments(
            "upstreams/_trace_poll.html", part=part, upstream=upstream, **_poll(upstream, seen)
        )
    return htmx.render_page(
        "upstreams/trace.html",
        part=part,
        upstream=upstream,
        form=form,
        may_trace=upstream.kind == SMPP,
        is_running=upstream.id in traces.list_running_traces(conn),
        max_minutes=traces.MAX_MINUTES,
        max_rows=traces.MAX_ROWS,
        **_poll(upstream, seen),
    )


@blueprint.post("/<int:upstream_id>/trace/stop")
@access.operator_required
def stop_trace(upstream_id: int) -> ResponseReturnValue:
    conn = context.get_conn()
    upstream = upstreams.get_upstream_by_id(conn, upstream_id)
    traces.stop_trace(conn, context.get_actor(), upstream)
    return _redirect(upstream, _("The trace of %(name)s was stopped.", name=upstream.name))


def _redirect(upstream: Upstream, sentence: str) -> ResponseReturnValue:
    return htmx.redirect_browser_or_htmx(url_for(".show_trace", upstream_id=upstream.id), htmx.Toast(sentence))


def _poll(upstream: Upstream, seen: str) -> dict[str, Any]:
    """The address that the open page asks, as long as more may come to this page of the list; empty: none."""
    trace = traces.get_trace(context.get_conn(), upstream.id)
    may_grow = trace is not None and trace.is_running(now_ms() - _LAST_PDUS_MS)
    is_newest = not any(each in request.args for each in paging.PAGING_ARGS)
    return {"poll": url_for(".show_trace", upstream_id=upstream.id, seen=seen) if may_grow and is_newest else ""}


def _render_part(upstream: Upstream) -> Markup:
    conn = context.get_conn()
    trace = traces.get_trace(conn, upstream.id)
    page = paging.paginate(partial(traces.list_pdus, conn, upstream.id), _PAGE_SIZE)
    values = {"upstream": upstream, "trace": trace, "is_running": trace is not None and trace.is_running(now_ms())}
    return Markup(render_template(_PART, page=page, format_time=_format_time, **values))


def _format_time(at: int) -> str:
    """The time of day, with milliseconds: a trace is looked at on its day."""
    return datetime.fromtimestamp(at / 1000, ZoneInfo(context.get_config().timezone)).strftime("%H:%M:%S.") + (
        f"{at % 1000:03d}"
    )
