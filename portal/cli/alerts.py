"""`alerts …`: what is wrong, as operators were told, and trying out whether that reaches them."""

from collections.abc import Callable
from functools import partial

import click

from portal.cli.shell import CommandContext, CommandOutput, add_group, format_table, format_timestamp, list_rows
from portal.services.common import mail
from portal.services.operations import alert_webhook, alerts
from portal.services.operations.alerts import Alert
from portal.services.people import users

alerts_group = add_group("alerts")


@alerts_group.command("list", example="alerts list --all")
@click.option("--all", "shows_all", is_flag=True, help="Those that are over, too, of the last three months.")
@click.option("--limit", type=click.IntRange(min=1), default=100, metavar="N", help="So many at most (100).")
def _list_alerts(context: CommandContext, *, shows_all: bool, limit: int) -> CommandOutput:
    """List what is wrong now, the latest first."""
    listed = alerts.list_all_alerts(context.conn, limit) if shows_all else alerts.list_alerts(context.conn)[:limit]
    rows = [_alert_to_dict(each) for each in listed]
    return list_rows(rows, ("id", "kind", "subject", "since", "over_at", "text"))


def _alert_to_dict(alert: Alert) -> dict[str, object]:
    return {
        "id": alert.id,
        "kind": alert.kind,
        "subject": alert.subject,
        "since": format_timestamp(alert.since),
        "told_at": format_timestamp(alert.told_at),
        "over_at": format_timestamp(alert.over_at),
        "text": f"{alert.title}. {alert.detail}".rstrip(),
    }


@alerts_group.command("test", example="alerts test")
def _test_alerts(context: CommandContext) -> CommandOutput:
    """Send a test to each operator and to the webhook, at once, and say what has arrived."""
    config = context.config
    rows: list[dict[str, object]] = [
        {
            "to": each.email,
            "error": _find_error(partial(mail.send_mail_at_once, config, each.email, "alert_test", each.language)),
        }
        for each in users.list_users(context.conn, None)
    ]
    if config.alerts.webhook_url:
        rows.append({"to": "webhook", "error": _find_error(partial(alert_webhook.send_test, context.conn, config))})
    sent = "sent" if config.mail.url else "in outbox/: [mail] url is not set"
    lines = [(row["to"], row["error"] or (sent if row["to"] != "webhook" else "sent")) for row in rows]
    if not config.alerts.webhook_url:
        lines.append(("webhook", "[alerts] webhook_url is not set"))
    failed_count = sum(bool(row["error"]) for row in rows)
    problem = f"{failed_count} of {len(rows)} could not be sent" if failed_count else ""
    return CommandOutput(rows, format_table(("to", "result"), lines), problem, status=int(bool(failed_count)))


def _find_error(send: Callable[[], None]) -> str:
    """Why this can't be sent; empty: it was."""
    try:
        send()
    except OSError as error:
        return error.strerror or str(error)
    return ""
