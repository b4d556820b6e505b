"""`route …` and `upstream default --none`, as users and scripts run them."""

import re

import pytest

from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import session_records
from portal.services.common.audit import SHELL
from portal.services.upstreams import health, upstreams
from portal.services.upstreams.health import UpstreamHealth
from tests.services.upstreams.waiting import add_upstream, queue_messages


@pytest.fixture
def carriers(conn: Connection, keys: Keys) -> None:
    for name in ("A", "B", "C"):
        add_upstream(conn, keys, name)


def test_routes_are_added_listed_moved_and_removed(ok, refused, carriers):
    first = ok("route", "add", "--upstream", "B,A", "--customer", "Acme", "--country", "it")
    assert first == {
        "id": 1,
        "position": 1,
        "customer": "Acme",
        "account": None,
        "country": "IT",
        "prefix": None,
        "sender": None,
        "upstreams": [{"name": "B", "weight": None}, {"name": "A", "weight": None}],
        "unreachable_behind": None,
        "replace_sender": None,
        "quiet_hours": None,
        "buying_price": None,
    }
    second = ok("route", "add", "--upstream", "A:70,C:30,B", "--account", "smpp-acme-1", "--sender", "ACME")
    assert second["upstreams"] == [
        {"name": "A", "weight": 70},
        {"name": "C", "weight": 30},
        {"name": "B", "weight": None},
    ]
    assert ok("route", "add", "--upstream", "C", "--prefix", "+39 340", "--before", "2")["position"] == 2
    assert [each["id"] for each in ok("route", "list")] == [1, 3, 2]
    assert ok("route", "move", "2", "--before", "1")["position"] == 1
    assert [each["id"] for each in ok("route", "list")] == [2, 1, 3]
    assert ok("route", "move", "2")["position"] == 3
    assert ok("route", "remove", "1") == {"id": 1}
    assert [each["id"] for each in ok("route", "list")] == [3, 2]
    for command in (("route", "remove", "1"), ("route", "move", "1"), ("route", "move", "2", "--before", "1")):
        assert refused(*command) == "There is no route 1.\n"


def test_the_list_tells_the_order_and_where_the_rest_goes(run_app, ok, carriers):
    assert run_app("route", "list").stdout == "No route. What no route takes goes to the default upstream, A.\n"
    ok("route", "add", "--upstream", "B:70,C:30", "--customer", "Acme", "--country", "IT", "--sender", "ACME")
    ok("route", "add", "--upstream", "C")
    ok("upstream", "default", "--none")
    assert run_app("route", "list").stdout.splitlines() == [
        "id  account or customer  to  sender  upstreams  also",
        "1   Acme                 IT  ACME    B:70,C:30",
        "2                                    C",
        "There is no default upstream.",
    ]


def test_one_that_is_never_reached_is_warned_of_and_marked(run_app, ok, carriers):
    def warned(*command: str) -> str:
        done = run_app(*command)
        assert done.returncode == 0
        return str(done.stderr)

    assert warned("route", "add", "--upstream", "A", "--country", "IT") == ""
    add = ("route", "add", "--upstream", "B", "--prefix", "39340")
    assert warned(*add) == "Route 2 can never be reached: route 1 takes all that it fits.\n"
    assert warned("route", "list") == ""
    assert re.search(r"^2 .* never reached: route 1 takes all of it$", run_app("route", "list").stdout, re.M)
    assert [each["unreachable_behind"] for each in ok("route", "list")] == [None, 1]
    assert warned("route", "move", "2", "--before", "1") == ""
    assert [each["unreachable_behind"] for each in ok("route", "list")] == [None, None]
    assert warned("route", "add", "--upstream", "C", "--before", "2") == (
        "Route 2 can never be reached: route 3 takes all that it fits."
        " Route 1 can never be reached: route 3 takes all that it fits.\n"
    )


def test_a_test_says_which_way_and_why(ok, run_app, refused, carriers):
    test = ("route", "test", "smpp-acme-1", "+39 340 123-4567")
    assert ok(*test) == {
        "route": None,
        "upstreams": ["A"],
        "reason": "No route fits, and A is the default upstream.",
    }
    ok("route", "add", "--upstream", "B,C", "--account", "smpp-acme-1", "--prefix", "39340", "--sender", "SHOP")
    assert ok(*test)["route"] is None
    ok("sender", "add", "smpp-acme-1", "SHOP", "--approve")
    assert ok(*test, "SHOP") == {
        "route": 1,
        "upstreams": ["B", "C"],
        "reason": "Route 1 is the first that fits: account smpp-acme-1, first digits 39340, sender SHOP.",
    }
    assert run_app(*test, "SHOP").stdout.startswith("B, then C\nRoute 1 is")
    ok("route", "add", "--upstream", "A:1,C:1")
    shared = ok(*test)
    assert sorted(shared["upstreams"]) == ["A", "C"]
    assert shared["reason"] == (
        "Route 2 is the first that fits: all messages."
        f" Of A, C, which share, 393401234567 is always {shared['upstreams'][0]}'s."
    )
    assert ok("route", "test", "smpp-globex-1", "393401234567", "SHOP")["route"] == 2
    assert "no account" in refused("route", "test", "smpp-nobodys", "393401234567")
    assert "1234 is no number" in refused("route", "test", "smpp-acme-1", "1234")


def test_what_nothing_takes_is_said_to_be_refused(ok, run_app, carriers):
    ok("route", "add", "--upstream", "B", "--country", "IT")
    ok("upstream", "default", "--none")
    test = ("route", "test", "smpp-acme-1", "447911123456")
    assert ok(*test) == {
        "route": None,
        "upstreams": [],
        "reason": "No route takes a message to 447911123456, and there is no default upstream."
        " It is refused (ESME_RINVDSTADR).",
    }
    assert run_app(*test).stdout.startswith("nowhere\n")
    assert ok("route", "test", "smpp-acme-1", "393401234567")["upstreams"] == ["B"]


def test_a_test_says_which_upstreams_get_nothing(ok, conn, carriers):
    ok("route", "add", "--upstream", "A,B,C", "--country", "IT")
    test = ("route", "test", "smpp-acme-1", "393401234567")
    assert "gets nothing" not in ok(*test)["reason"]
    ok("upstream", "disable", "A")
    ok("upstream", "drain", "B")
    session_records.record_component_heartbeat(conn, "smsc", 0)
    health.record_health(conn, upstreams.get_upstream(conn, "C").id, UpstreamHealth(health.FAILING, 1))
    for sentence in ("A is disabled, and gets", "B is being drained, and gets", "C is failing, and gets nothing"):
        assert f" {sentence}" in ok(*test)["reason"]


def test_a_test_says_where_messages_go_without_any_upstream(ok, conn, keys):
    test = ("route", "test", "smpp-acme-1", "393401234567")
    assert "built-in simulator" in ok(*test)["reason"]
    upstreams.remove_upstream(conn, SHELL, add_upstream(conn, keys))
    assert ok(*test)["reason"] == "There is no upstream: messages wait."


def test_a_test_says_that_a_number_without_a_price_is_refused_all_the_same(ok, carriers):
    ok("price", "close", "39340")
    assert "has no price for it" in ok("route", "test", "smpp-acme-1", "393401234567")["reason"]


def test_a_test_says_that_a_sender_which_the_account_lacks_is_refused_all_the_same(ok, carriers):
    test = ("route", "test", "smpp-acme-1", "393401234567")
    ok("sender", "add", "smpp-acme-1", "SHOP")
    assert ok(*test, "SHOP")["reason"] == (
        "No route fits, and A is the default upstream."
        " The sender SHOP isn't allowed for this account. It is refused all the same (ESME_RINVSRCADR)."
    )
    ok("account", "change", "smpp-acme-1", "--any-sender")
    assert "SHOP" not in ok(*test, "SHOP")["reason"]


def test_a_test_tells_a_number_that_may_lack_its_country_code(ok, carriers):
    tested = ok("route", "test", "smpp-acme-1", "3401234567")
    assert tested["upstreams"] == ["A"]
    assert tested["reason"].endswith(" 3401234567 is like no known number of Spain: is its country code in front?")


def test_a_route_is_changed_in_its_place(ok, refused, run_app, carriers):
    ok("route", "add", "--upstream", "A", "--country", "IT", "--sender", "ACME")
    ok("route", "add", "--upstream", "B")
    changed = ok("route", "change", "1", "--upstream", "C,A", "--quiet-hours", "22:00-8:00 UTC", "--without", "sender")
    assert (changed["id"], changed["position"], changed["country"], changed["sender"]) == (1, 1, "IT", None)
    assert (changed["upstreams"][0]["name"], changed["quiet_hours"]) == ("C", "22:00-08:00 UTC")
    changed = ok("route", "change", "1", "--buying-price", "0.75", "--replace-sender", "48484")
    assert (changed["quiet_hours"], changed["buying_price"]) == ("22:00-08:00 UTC", 0.75)
    assert "sender becomes 48484, quiet 22:00-08:00 UTC, bought at 0.75" in run_app("route", "list").stdout
    assert "isn't a country" in refused("route", "change", "1", "--country", "")
    assert "can't be quiet hours" in refused("route", "change", "1", "--quiet-hours", "night")
    assert refused("route", "change", "9", "--country", "FR") == "There is no route 9.\n"
    assert run_app("route", "change", "1", "--without", "upstream").returncode == 2


def test_what_is_wrong_is_told(refused, run_app, carriers):
    add = ("route", "add", "--upstream")
    assert "no upstream “nobody”" in refused(*add, "nobody")
    assert "with weights from 1 to 1000" in refused(*add, "A:0,B:1")
    assert "two at least, and come first" in refused(*add, "A:70,B")
    assert "upstreams name “A” twice" in refused(*add, "A,B,A")
    assert "isn't a country" in refused(*add, "A", "--country", "Italy")
    assert "No number begins with “0340”" in refused(*add, "A", "--prefix", "0340")
    assert "for a country or for first digits" in refused(*add, "A", "--country", "IT", "--prefix", "39")
    assert "for a customer or for an account" in refused(*add, "A", "--customer", "Acme", "--account", "smpp-acme-1")
    assert "at most 1000" in refused(*add, "A", "--buying-price", "1000000000000")
    # What a script's variable has left empty is not every message.
    for option, says in (("--country", "isn't a country"), ("--prefix", "No number"), ("--sender", "sender")):
        assert says in refused(*add, "A", option, "")
    assert "no customer “”" in refused(*add, "A", "--customer", "")
    assert "no account “”" in refused(*add, "A", "--account", "")
    assert "no customer “Initech”" in refused(*add, "A", "--customer", "Initech")
    assert run_app("route", "add", "--country", "IT").returncode == 2


def test_an_option_that_is_wrong_names_no_other_command(run_app):
    done = run_app("route", "add", "--upstream", "A", "--before", "first")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("Invalid value for '--before': 'first' is not a valid integer.\n")


def test_none_may_be_the_default_upstream(ok, refused, run_app, carriers):
    assert ok("upstream", "default", "--none") == {"default": None, "waiting": 0}
    assert [each["default"] for each in ok("upstream", "list")] == [False] * 3
    assert "None is the default one: a message that no route takes is refused." in run_app("upstream", "list").stdout
    assert ok("upstream", "default", "B")["default"]
    assert "None is the default one" not in run_app("upstream", "list").stdout
    for wrong in ((), ("B", "--none")):
        assert run_app("upstream", "default", *wrong).returncode == 2
    ok("route", "add", "--upstream", "A")
    assert refused("upstream", "remove", "A") == (
        "Routes lead to “A”: 1. Change them first so that they do without it, or remove them.\n"
    )


def test_what_waits_for_the_default_upstream_is_told_when_there_is_none_any_more(run_app, carriers, conn, cast):
    queue_messages(conn, cast.smpp_acme_1.id, 3)
    done = run_app("upstream", "default", "--none")
    assert done.returncode == 0
    assert "Messages wait for a default upstream, and were accepted: 3." in done.stderr
