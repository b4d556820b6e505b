"""`queue …`: what waits for upstreams, and accounts on hold."""

import re
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from portal.core import db
from portal.core.crypto import Keys
from portal.services.common.audit import SHELL
from portal.services.messages import queue_works
from portal.services.routing import route_table
from portal.services.upstreams import holds
from tests.services.routing.adding import create_route
from tests.services.upstreams.waiting import add_upstream, queue_messages, reroute
from tests.support import Cast


@pytest.fixture(autouse=True)
def waiting(conn: db.Connection, cast: Cast, keys: Keys) -> list[int]:
    """Three messages of Acme's, and one of Globex'; two upstreams."""
    for name in ("first", "second"):
        add_upstream(conn, keys, name)
    return [*queue_messages(conn, cast.smpp_acme_1.id, 3), *queue_messages(conn, cast.smpp_globex_1.id)]


def test_it_lists_what_waits_also_without_a_command(ok, run_app, conn, cast):
    holds.hold_account(conn, SHELL, cast.smpp_globex_1.id, "")
    (row,) = ok("queue")
    assert ok("queue", "list") == [row]
    assert (row["upstream"], row["waiting"], row["held"]) == ("first", 3, 1)
    assert row["oldest"].endswith("Z")
    assert [(each["account"], each["waiting"], each["held"]) for each in ok("queue", "--by", "account")] == [
        ("smpp-acme-1", 3, 0),
        ("smpp-globex-1", 0, 1),
    ]
    assert ok("queue", "list", "--by", "age") == []
    assert [each["route"] for each in ok("queue", "list", "--by", "route")] == [None]
    conn.execute("UPDATE queued_messages SET message_id = message_id - (7200000 << 12)")
    assert [each["age"] for each in ok("queue", "list", "--by", "age")] == ["1h", "10m"]
    assert "smpp-acme-1" in run_app("queue", "list", "--by", "account").stdout
    assert run_app("queue", "list", "--upstream", "second").stdout == "Nothing waits.\n"


def test_it_says_what_waits_for_the_end_of_quiet_hours(ok, conn):
    hour = datetime.now(UTC).hour
    create_route(conn, "second", country="IT", quiet_hours=f"{hour}:00-{(hour + 2) % 24}:00 UTC")
    assert ok("queue", "list", "--quiet") == []
    reroute(conn)
    (row,) = ok("queue", "list", "--quiet")
    assert row["quiet"].startswith("4 wait until 20")
    assert row["quiet"].endswith(":00:00Z: quiet hours of route 1")


@pytest.mark.parametrize("action", ["hold", "cancel", "move"])
def test_a_work_is_asked_for_and_listed(ok, run_app, conn, action):
    to = ["--to", "second"] if action == "move" else []
    done = run_app("queue", action, "--account", "smpp-acme-1", *to, "--yes")
    assert done.returncode == 0
    assert done.stdout.startswith("3 messages of smpp-acme-1 (3)")
    assert ("3 credits given back" in done.stdout) == (action == "cancel")
    (work,) = ok("queue", "works")
    assert (work["action"], work["asked"], work["done"], work["ended"], work["by"]) == (action, 3, 0, None, "shell")
    queue_works.run_queue_step(conn, route_table.load_route_table(conn), lambda *_: ())
    (work,) = ok("queue", "works")
    assert (work["done"], work["refunded"]) == (3, 3.0 if action == "cancel" else 0)
    assert work["ended"]
    assert work["to"] == ("second" if action == "move" else None)
    assert work["error"] is None


def test_without_a_terminal_nothing_is_done_unless_it_is_said_so(refused, conn):
    assert refused("queue", "cancel") == (
        "Cancel 4 messages of smpp-acme-1 (3), smpp-globex-1 (1), 4 credits given back? Nobody can be asked here: say"
        " --yes.\n"
    )
    assert queue_works.list_queue_works(conn) == []


@pytest.mark.parametrize(("typed", "count"), [("n\n", 0), ("y\n", 1)])
def test_on_a_terminal_it_asks(run_app, conn, monkeypatch, typed, count):
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("portal.cli.queue.sys", terminal)
    done = run_app("queue", "hold", stdin=typed)
    assert "Hold 4 messages of smpp-acme-1 (3), smpp-globex-1 (1)? [y/N]" in done.stderr
    assert len(queue_works.list_queue_works(conn)) == count
    assert done.returncode == 1 - count


def test_what_is_wrong_is_said(run_app, refused, conn):
    assert run_app("queue", "move", "--yes").returncode == 2
    assert "nobody" in refused("queue", "hold", "--account", "nobody", "--yes")
    assert "There is no route 9." in refused("queue", "hold", "--route", 9, "--yes")
    assert run_app("queue", "release", "--yes").stdout == "Nothing that waits fits.\n"
    assert run_app("queue", "--help").stdout.count("hold-account") >= 1


def test_an_account_is_held_and_released(ok, run_app):
    ok("queue", "hold-account", "smpp-acme-1", "--reason", "unusual traffic")
    (hold,) = ok("queue", "holds")
    assert (hold["account"], hold["reason"], hold["by"]) == ("smpp-acme-1", "unusual traffic", "shell")
    assert run_app("queue", "hold-account", "smpp-acme-1").stdout == "smpp-acme-1 was on hold already.\n"
    # Scripts get the code of its own status, people see the hold.
    assert ok("account", "show", "smpp-acme-1")["status"] == "UPDATING_IP"
    assert re.search(r"^status +On hold$", run_app("account", "show", "smpp-acme-1").stdout, re.M)
    assert re.search(r"^smpp-acme-1 .* On hold ", run_app("account", "list").stdout, re.M)
    assert run_app("queue", "release-account", "smpp-acme-1").stdout == "smpp-acme-1 was released.\n"
    assert run_app("queue", "release-account", "smpp-acme-1").stdout == "smpp-acme-1 was not on hold.\n"
    assert run_app("queue", "holds").stdout == "No account is on hold.\n"


def test_what_was_moved_or_is_held_does_not_hide_an_upstream(ok, run_app, conn):
    for action, queued in (("move", 4), ("hold", 0)):
        to = ["--to", "second"] if action == "move" else []
        assert run_app("queue", action, *to, "--yes").returncode == 0
        queue_works.run_queue_step(conn, route_table.load_route_table(conn), lambda *_: ())
        assert ok("upstream", "show", "second")["queued"] == queued
    assert run_app("upstream", "show", "second").returncode == 0
    assert run_app("upstream", "list").returncode == 0
