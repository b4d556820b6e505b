"""For monitoring: alive, ready, and figures in Prometheus's text format."""

import sqlite3

from flask import Blueprint
from flask.typing import ResponseReturnValue

from portal.services.accounts import session_records
from portal.services.operations import metrics
from portal.web.core import access, context

blueprint = Blueprint("health", __name__)

_TEXT_HEADERS = {"Content-Type": "text/plain; charset=utf-8"}


@blueprint.get("/healthz")
@access.monitoring_only
def healthz() -> ResponseReturnValue:
    """This process answers; nothing else is asked."""
    return "ok\n", 200, _TEXT_HEADERS


@blueprint.get("/readyz")
@access.monitoring_only
def readyz() -> ResponseReturnValue:
    """Requests are answered, the database can be read, and the SMPP server takes binds; 503 says what is missing."""
    try:
        ready = session_records.is_component_alive(context.get_conn(), "smsc")
    except sqlite3.Error as error:
        return f"database: {error}\n", 503, _TEXT_HEADERS
    return ("ready\n", 200, _TEXT_HEADERS) if ready else ("the SMPP server isn't ready\n", 503, _TEXT_HEADERS)


@blueprint.get("/metrics")
@access.monitoring_only
def show_metrics() -> ResponseReturnValue:
    return metrics.render_metrics(context.get_conn()), 200, {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
