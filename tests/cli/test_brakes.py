"""`brake …` and `init --countries`: what an account may send, and unusual traffic."""

import pytest

from portal.core.clock import now_ms
from portal.services.brakes import brakes, unusual_traffic
from portal.services.brakes.brakes import Brakes
from portal.services.brakes.unusual_traffic import BUSY_HOUR, Finding
from portal.services.common.audit import SHELL
from portal.services.upstreams import holds
from tests.support import record_refused_messages


def test_what_is_not_given_stays_and_0_or_all_is_no_limit(ok, cast, conn):
    ok("brake", "set", "smpp-acme-1", "--countries", "it,FR", "--credits-per-day", "12.5", "--unusual", "hold")
    shown = ok("brake", "set", "smpp-acme-1", "--messages-per-day", "100")
    assert shown["countries"] == ["FR", "IT"]
    assert (shown["messages_per_day"], shown["credits_per_day"], shown["unusual"]) == (100, 12.5, "hold")
    assert shown["own"]["messages_per_day"] is None
    ok("brake", "set", "smpp-acme-1", "--countries", "all", "--credits-per-day", "0")
    operator = brakes.get_brakes(conn, cast.smpp_acme_1.id).operator
    assert operator == Brakes(day_messages=100, unusual="hold")


def test_people_read_words(run_app, cast, conn):
    record_refused_messages(conn, cast.smpp_acme_1.id, {("country", "FR"): 7})
    text = run_app("brake", "show", "smpp-acme-1").stdout
    assert "countries          all" in text
    assert "messages_per_day   no limit" in text
    assert "refused            7 country FR" in text


def test_new_accounts_get_the_default(ok):
    assert ok("brake", "default")["countries"] is None
    ok("brake", "default", "--countries", "IT", "--messages-per-hour", "5")
    ok("account", "add", "--customer", "Acme", "--name", "smpp-acme-9")
    assert ok("brake", "show", "smpp-acme-9")["countries"] == ["IT"]
    assert ok("brake", "show", "smpp-acme-9")["messages_per_hour"] == 5
    assert ok("brake", "show", "smpp-acme-1")["countries"] is None


def test_a_simultaneous_change_of_the_default_is_not_overwritten(refused, conn, monkeypatch):
    def change_meanwhile(text):
        brakes.set_default_brakes(conn, SHELL, Brakes(day_messages=5))
        return frozenset((text,))

    monkeypatch.setattr(brakes, "parse_countries", change_meanwhile)
    assert "Somebody else" in refused("brake", "default", "--countries", "IT")
    assert brakes.get_default_brakes(conn) == Brakes(day_messages=5)


def test_init_gives_the_countries_of_new_accounts(start_app, tmp_path):
    done = start_app("init", "--email", "olga@portal.example", "--countries", "IT,XX", "--data", tmp_path / "new")
    assert (done.returncode, done.stderr) == (
        1,
        "“XX” is no country. Write codes such as IT or FR, with spaces between them.\n",
    )
    done = start_app("init", "--email", "olga@portal.example", "--countries", "IT,SM", "--data", tmp_path / "new")
    assert done.returncode == 0
    done = start_app("brake", "default", "--data", tmp_path / "new")
    assert "countries          IT,SM" in done.stdout


@pytest.mark.parametrize("wrong", [("--countries", "Italy"), ("--credits-per-day", "x")])
def test_what_is_wrong_is_told(refused, wrong):
    assert refused("brake", "set", "smpp-acme-1", *wrong)


def test_a_limit_has_as_many_digits_as_on_the_page(ok, run_app, cast, conn):
    most = "9" * 12
    assert ok("brake", "set", "smpp-acme-1", "--messages-per-day", most)["messages_per_day"] == int(most)
    assert brakes.parse_limit("day_messages", most) == int(most)
    for option in ("--messages-per-day", "--messages-per-hour"):
        assert run_app("brake", "set", "smpp-acme-1", option, "1" + "0" * 12).returncode == 2


def test_unusual_traffic_is_listed_and_released(ok, run_app, cast, conn, keys):
    found = Finding(BUSY_HOUR, "", {"messages": 900, "threshold": 500, "usual": 3})
    unusual_traffic.record_event(conn, keys, cast.smpp_acme_1.id, found, now_ms(), is_to_hold=True)
    (event,) = ok("brake", "events")
    assert (event["account"], event["kind"], event["held"], event["answer"]) == ("smpp-acme-1", "busy_hour", True, None)
    assert "900 messages in an hour" in run_app("brake", "events").stdout
    assert ok("brake", "release", "smpp-acme-1") == {"account": "smpp-acme-1", "released": True}
    assert holds.list_account_holds(conn) == []
    assert ok("brake", "release", "smpp-acme-1")["released"] is False
    conn.execute("UPDATE brake_events SET answer = NULL")
    ok("queue", "hold-account", "smpp-acme-1")
    assert "somebody holds it besides" in run_app("brake", "release", "smpp-acme-1").stdout
    conn.execute("UPDATE brake_events SET ended_at = 1")
    assert (ok("brake", "events"), len(ok("brake", "events", "--all"))) == ([], 1)
