"""`alerts …`: what is wrong, and whether operators would hear of it."""

import pytest

from portal.services.accounts import session_records
from portal.services.common.audit import SHELL, SYSTEM
from portal.services.operations import alerts
from portal.services.operations.alerts import OVER_MS
from portal.services.upstreams import holds
from tests.mailbox import Mailbox
from tests.support import find_free_port
from tests.webhook import WebhookServer


@pytest.fixture
def set_up(data):
    """Writes settings of mails and of the webhook into the data folder."""

    def set_up(mail_url, webhook_url):
        text = f"[mail]\nurl = '{mail_url}'\n[alerts]\nwebhook_url = '{webhook_url}'\n"
        (data / "config.toml").write_text(text)

    return set_up


def test_what_is_wrong_is_listed_and_what_was_is_with_all(ok, run_app, conn, config, keys, cast):
    session_records.record_component_heartbeat(conn, "smsc", 0)
    holds.hold_account(conn, SYSTEM, cast.smpp_acme_1.id, "brake: busy_hour")
    alerts.watch(conn, config, keys)
    (listed,) = ok("alerts", "list")
    assert (listed["kind"], listed["subject"], listed["over_at"]) == ("account_held", "smpp-acme-1", None)
    assert listed["told_at"]
    assert "smpp-acme-1 is on hold: unusual traffic." in run_app("alerts", "list").stdout
    holds.release_account(conn, SHELL, cast.smpp_acme_1.id)
    alerts.watch(conn, config, keys, conn.execute("SELECT seen_at FROM alerts").fetchone()[0] + OVER_MS)
    assert ok("alerts", "list") == []
    (listed,) = ok("alerts", "list", "--all")
    assert listed["over_at"]


def test_a_test_goes_to_each_operator_and_to_the_webhook(run_app, ok, cast, set_up):
    with Mailbox().listening() as mailbox, WebhookServer().listening() as webhook:
        set_up(mailbox.url, webhook.url)
        assert ok("alerts", "test") == [{"to": cast.olga.email, "error": ""}, {"to": "webhook", "error": ""}]
        told = mailbox.wait_for_mail()
        assert (told["To"], told["Subject"]) == (cast.olga.email, "A test of alerts")
        post = webhook.wait_for_post()
        assert (post["text"], post["kind"]) == ("SMPP Portal: This is a test. Alerts come here.", "test")
        assert "token=secret" not in run_app("config").stdout


def test_what_does_not_arrive_is_told(run_app, cast, set_up):
    with WebhookServer().listening() as webhook:
        webhook.status = 404
        set_up(f"smtp://127.0.0.1:{find_free_port()}", webhook.url)
        done = run_app("alerts", "test")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1:] == [
        f"{cast.olga.email}  Connection refused",
        "webhook              404 Not Found",
    ]
    assert done.stderr == "2 of 2 could not be sent\n"


def test_what_is_not_set_is_told(run_app, cast, config):
    done = run_app("alerts", "test")
    assert done.returncode == 0
    assert f"{cast.olga.email}  in outbox/: [mail] url is not set" in done.stdout
    assert "webhook              [alerts] webhook_url is not set" in done.stdout
    assert len([*(config.data / "outbox").iterdir()]) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        *("http://hooks.example/x", "ftp://hooks.example"),
        # No names of hosts: a label is empty, or longer than 63 characters (RFC 1035, 2.3.4).
        *("https://hooks..example/x", "https://.hooks.example/x", f"https://{'x' * 64}.example/x"),
    ],
)
def test_a_webhook_that_is_not_safe_or_has_no_host_is_refused_by_every_command(run_app, set_up, wrong):
    set_up("", wrong)
    assert run_app("alerts", "test").stderr.startswith("alerts.webhook_url: must look like https")
