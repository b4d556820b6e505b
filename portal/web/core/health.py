"""For monitoring: alive, ready, and figures in Prometheus's text format."""

import sqlite3

from flask import Blueprint
from flask.typing import ResponseReturnValue

from portal import migrations
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
    """Requests are answered, the database can be read and has this version's schema, and the SMPP server takes binds.

    503 says what is missing.
    """
    conn = context.get_conn()
    try:
        missing = migrations.describe_schema_difference(conn)
        if not missing and not session_records.is_component_alive(conn, "smsc"):
            missing = "the SMPP server isn't ready"
    except sqlite3.Error as error:
        missing = f"database: {error}"
    return (f"{missing}\n", 503, _TEXT_HEADERS) if missing else ("ready\n", 200, _TEXT_HEADERS)


@blueprint.get("/metrics")
@access.monitoring_only
def show_metrics() -> ResponseReturnValue:
    return metrics.render_metrics(context.get_conn()), 200, {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
