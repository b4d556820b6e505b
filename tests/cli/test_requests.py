"""`request …`, as users and scripts run it."""

import pytest

from portal.services.accounts import accounts
from portal.services.common.audit import Actor
from portal.services.messages import account_requests


@pytest.fixture
def asked(conn, cast):
    """The ids of two: a window, and then a route."""
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    alice = Actor("alice@acme.example")
    return [
        account_requests.ask_operator(conn, alice, account, subject, value, note).id
        for subject, value, note in (("windowing", "", "50 from May on"), ("route", "FR", ""))
    ]


def test_what_waits_is_listed_and_answered(ok, run_app, asked, conn, cast):
    route, window = ok("request", "list")
    assert (window["id"], route["id"]) == tuple(asked)
    assert (window["account"], window["customer"], window["subject"]) == ("smpp-acme-1", "Acme", "windowing")
    assert (window["value"], window["note"], window["answer"]) == (None, "50 from May on", None)
    assert (route["value"], route["text"]) == ("FR", "A route to France for smpp-acme-1")
    assert "A route to France for smpp-acme-1" in run_app("request", "list").stdout
    assert ok("request", "list", "--account", "smpp-globex-1") == []
    done = ok("request", "done", asked[0], "--comment", "it is 50 now")
    assert (done["answer"], done["comment"], done["answered_by"]) == ("done", "it is 50 now", "shell")
    assert done["answered_at"]
    assert "Declined" in run_app("request", "decline", asked[1]).stdout
    assert ok("request", "list") == []
    assert [each["answer"] for each in ok("request", "list", "--all", "--account", "smpp-acme-1")] == [
        "declined",
        "done",
    ]
    recipients = conn.execute("SELECT recipient FROM mails").fetchall()
    assert [each[0] for each in recipients] == ["alice@acme.example"] * 2


def test_what_is_answered_or_not_there_is_refused(ok, refused, asked):
    ok("request", "done", asked[0])
    assert "Somebody has answered this already." in refused("request", "decline", asked[0])
    for each in ("77", "x", "²"):
        assert f"There is no request {each}." in refused("request", "done", each)
    assert "At most 500 characters." in refused("request", "done", asked[1], "--comment", 501 * "x")
    assert "There is no account" in refused("request", "list", "--account", "smpp-nobody-1")
