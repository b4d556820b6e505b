"""Metrics for monitoring, in the Prometheus text format."""

import sqlite3

from portal.services.accounts import session_records

_METRICS = {
    "smpp_portal_messages_total": ("counter", "Messages accepted", "SELECT sum(sent) FROM daily_totals"),
    "smpp_portal_delivered_total": ("counter", "Messages delivered", "SELECT sum(delivered) FROM daily_totals"),
    "smpp_portal_refused_total": (
        "counter",
        "Messages not covered by credits",
        "SELECT sum(refused) FROM daily_totals",
    ),
    "smpp_portal_sessions": ("gauge", "Open SMPP sessions", "SELECT count(*) FROM connections"),
    "smpp_portal_receipts_waiting": ("gauge", "Receipts that wait for a receiver", "SELECT count(*) FROM deliveries"),
    "smpp_portal_mails_waiting": (
        "gauge",
        "Mails that wait to be sent",
        "SELECT count(*) FROM mails WHERE next_attempt_at IS NOT NULL",
    ),
}


def render_metrics(conn: sqlite3.Connection) -> str:
    lines = []
    for name, (kind, help, query) in _METRICS.items():
        value = conn.execute(query).fetchone()[0] or 0
        lines += [f"# HELP {name} {help}", f"# TYPE {name} {kind}", f"{name} {value}"]
    up = int(session_records.is_component_alive(conn, "smsc"))
    lines += ["# HELP smpp_portal_smsc_up The SMPP server is alive", "# TYPE smpp_portal_smsc_up gauge"]
    return "\n".join([*lines, f"smpp_portal_smsc_up {up}"]) + "\n"
