"""The running program alerts, and a process that is killed makes it tell nothing twice."""

import pytest

from portal.core import db
from portal.core.config import Config
from portal.services.accounts import session_records
from portal.services.common.audit import SHELL, SYSTEM
from portal.services.upstreams import holds
from tests.mailbox import Mailbox
from tests.serving import run_component
from tests.support import Cast, wait_until
from tests.webhook import WebhookServer


@pytest.mark.slow
def test_a_killed_process_tells_nothing_twice(conn: db.Connection, config: Config, cast: Cast) -> None:
    session_records.record_component_heartbeat(conn, "smsc", 0)
    holds.hold_account(conn, SYSTEM, cast.smpp_acme_1.id, "brake: busy_hour")
    with Mailbox().listening() as mailbox, WebhookServer().listening() as webhook:
        settings = {"PORTAL_ALERTS_WEBHOOK_URL": webhook.url, "PORTAL_MAIL_URL": mailbox.url}
        with run_component(config, "web", **settings) as server:
            assert webhook.wait_for_post()["state"] == "firing"
            wait_until(lambda: conn.execute("SELECT sent_at FROM alert_posts").fetchone()[0])
            server.process.kill()
            server.process.wait()
        seen_at = conn.execute("SELECT seen_at FROM alerts").fetchone()[0]
        with run_component(config, "web", **settings) as server:
            wait_until(lambda: conn.execute("SELECT max(seen_at) FROM alerts").fetchone()[0] > seen_at)
            server.process.kill()
            server.process.wait()
        assert webhook.list_posts() == []
        holds.release_account(conn, SHELL, cast.smpp_acme_1.id)
        conn.execute("UPDATE alerts SET seen_at = 1")
        with run_component(config, "web", **settings):
            assert webhook.wait_for_post()["state"] == "over"
            assert mailbox.wait_for_mail()["Subject"] == "Over now, it was: smpp-acme-1 is on hold: unusual traffic"
        assert conn.execute("SELECT count(*) FROM alerts").fetchone()[0] == 1
        assert webhook.list_posts() == []
