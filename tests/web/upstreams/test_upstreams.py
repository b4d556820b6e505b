"""The operators' pages of upstreams: the list, the form, the states."""

from collections.abc import Callable
from typing import Any

import pytest

from portal.core import db
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.services.accounts import session_records
from portal.services.common.audit import SYSTEM
from portal.services.routing import routes
from portal.services.upstreams import binds, counters, health, load, upstreams
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.health import UpstreamHealth
from portal.services.upstreams.load import TOO_MANY, UpstreamLoad
from portal.services.upstreams.upstreams import Upstream
from tests.services.messages.test_receipt_matching import build, receive
from tests.services.routing.adding import create_route
from tests.services.upstreams.waiting import queue_messages, reroute
from tests.support import Cast, Person
from tests.web.acting import extract_text
from tests.web.conftest import Browser
from tests.web.core.test_live import OpenPage
from tests.web.html import read_form_fields

Client = Callable[[Person], Browser]
LIST = "/admin/upstreams"
NEW: dict[str, Any] = {
    "name": "coast",
    "kind": "smpp",
    "host": "smpp.coast.example",
    "port": "3550",
    "system_id": "acme",
    "password": "secret",
}


@pytest.fixture
def olga(client: Client, cast: Cast) -> Browser:
    return client(cast.olga)


@pytest.fixture
def add(conn: db.Connection, keys: Keys) -> Callable[..., Upstream]:
    def add_upstream(name: str, state: str = "bound", error: str = "", status: int = 0, **settings: Any) -> Upstream:
        values = {"host": "h.example", "system_id": "acme", "password": "secret", **settings}
        upstream = upstreams.create_upstream(conn, keys, SYSTEM, name, **values)
        bind = BindState(1, "trx", state, now_ms() - 60_000, error, status, now_ms() + 34_500 if error else 0)
        binds.record_bind_states(conn, upstream.id, [bind])
        return upstream

    return add_upstream


@pytest.fixture
def running(conn: db.Connection) -> None:
    session_records.record_component_heartbeat(conn, "smsc", 0)


def fields_of(page: str) -> dict[str, Any]:
    return read_form_fields(page, "upstream-form")


def text_of(olga: Browser) -> str:
    return extract_text(olga.get(LIST).text)


# --- the list


@pytest.mark.usefixtures("running")
def test_ill_ones_come_first_with_what_mends_them(olga, conn, add):
    add("alpha")
    add("zeta", "refused", "the carrier refuses the bind with ESME_RINVPASWD 0x0E", 0x0E)
    text = text_of(olga)
    assert text.index("zeta") < text.index("alpha")
    assert "1 upstream sends nothing. Nothing waits." in text
    assert "It refuses the bind with ESME_RINVPASWD 0x0E: the password isn't the one that the carrier has" in text
    assert "Next try in 34 s." in text
    assert "Enter a new password" in text
    assert "bound since" in text


@pytest.mark.usefixtures("running")
def test_italians_read_of_many_messages_and_of_one_as_their_language_has_it(olga, conn, add):
    milano = add("milano")
    load.record_load(conn, milano.id, UpstreamLoad(last_error=TOO_MANY, last_error_at=now_ms()))
    counters.add_to_counters(conn, milano.id, {"accepted": 7, "failed": 5, "delivered": 4, "undelivered": 3})
    conn.execute(
        "INSERT INTO test_messages (upstream, destination, source, text, state, created_at)"
        " VALUES (?, '393401234567', '', 'x', 'delivered', ?)",
        (milano.id, now_ms()),
    )
    olga.post("/language", data={"locale": "it"})
    text = extract_text(olga.get(f"{LIST}/{milano.id}").text)
    assert ", troppi alla volta " in text
    assert "393401234567 arrivato" in text
    assert "Invia il messaggio " in text
    for counted in ("submit_sm accettate 7", "Rifiutate definitivamente 5", "consegnati 4", "non consegnati 3"):
        assert counted in text
    # Nobody is to fear that what waits is deleted.
    assert "Non dare più messaggi : milano" in text
    assert "Svuota" not in text


@pytest.mark.usefixtures("running")
def test_each_state_has_its_words(olga, conn, keys, add):
    failing = add("failing")
    health.record_health(conn, failing.id, UpstreamHealth("failing", now_ms(), "it answers nothing"))
    throttled = add("throttled", throughput=50)
    measured = UpstreamLoad(37.8, 10, 10, 38.0, 84.2, 1900.0, "ESME_RTHROTTLED 0x58", now_ms())
    load.record_load(conn, throttled.id, measured)
    poor = add("poor")
    for name, amount in (("delivered", 50), ("undelivered", 50)):
        counters.add_to_counters(conn, poor.id, {name: amount})
    conn.execute(
        "INSERT INTO upstream_hours SELECT upstream, hour - 24, name, 1000 FROM upstream_hours WHERE name = 'delivered'"
    )
    disabled = add("disabled")
    load.record_load(conn, disabled.id, UpstreamLoad(last_error="ESME_RSYSERR 0x08", last_error_at=now_ms()))
    upstreams.disable_upstream(conn, SYSTEM, disabled)
    drained = add("drained")
    upstreams.drain_upstream(conn, SYSTEM, drained)
    simulator = upstreams.create_upstream(conn, keys, SYSTEM, "sim", kind="simulator")
    counters.add_to_counters(conn, simulator.id, {"delivered": 6, "undelivered": 2})
    text = text_of(olga)
    assert f"/admin/upstreams/{throttled.id}/change#throughput" in olga.get(LIST).text
    assert "1 is disabled." in text
    assert "Messages, last hour 8" in text
    assert "75 %" in text
    assert "It is bound, but it answers nothing." in text
    assert "It gets 38 parts a second at most" in text
    assert "84 · 1,900 ms" in text
    assert "10/10" in text
    assert "bound, but fewer messages arrive" in text
    assert "50 %" in text
    assert "7 days: 100 %" in text
    assert "draining, bound" in text
    assert "It gets no new messages" in text
    assert "ready: it sends nothing" in text
    assert "ESME_RTHROTTLED 0x58" in text
    assert "ESME_RSYSERR 0x08" in text
    names = ["failing", "throttled", "poor", "drained", "sim", "disabled"]
    assert sorted(names, key=lambda each: text.index(f"{each} ")) == [
        "failing",
        "drained",
        "poor",
        "throttled",
        "sim",
        "disabled",
    ]


@pytest.mark.usefixtures("running")
def test_the_open_page_of_one_shows_its_binds_and_counters_as_they_change(olga, conn, add):
    milano = add("milano")
    page = OpenPage(olga, f"{LIST}/{milano.id}")
    assert 'id="binds" aria-labelledby="binds-title"' in page.text
    assert page.ask().status_code == 204
    counters.add_to_counters(conn, milano.id, {"accepted": 4711})
    answer = page.ask().text
    assert 'id="counted" aria-labelledby="counted-title" hx-swap-oob="true"' in answer
    assert "4,711" in answer
    binds.record_bind_states(conn, milano.id, [])
    answer = extract_text(page.ask().text)
    assert "1 · trx not connected" in answer
    assert "bound" not in answer.partition("Binds")[2]


@pytest.mark.usefixtures("running")
def test_most_of_a_new_upstreams_messages_in_this_hour_hide_no_fall(olga, conn, add):
    """Its card says so where operators are alerted of it."""
    poor = add("poor")
    for name, amount in (("delivered", 200), ("undelivered", 200)):
        counters.add_to_counters(conn, poor.id, {name: amount})
    conn.execute(
        "INSERT INTO upstream_hours SELECT upstream, hour - 24, name, 50 FROM upstream_hours WHERE name = 'delivered'"
    )
    text = text_of(olga)
    assert "bound, but fewer messages arrive" in text
    # It is compared with what is shown beside it.
    assert "50 % 7 days: 100 %" in text
    conn.execute("UPDATE upstream_hours SET value = 19 WHERE value = 50")
    assert "bound, but fewer messages arrive" not in text_of(olga)


@pytest.mark.usefixtures("running")
def test_receipts_that_match_nothing_are_told_while_they_are_many(olga, conn, add):
    alpha, beta = add("alpha"), add("beta")
    receive(conn, *(build(f"a{number}", upstream=alpha.id) for number in range(2)))
    assert "All work." in text_of(olga)
    receive(conn, build("a2", upstream=alpha.id))
    # Of sixteen three are fewer than a fifth.
    counters.add_to_counters(conn, beta.id, {"receipts": 13})
    receive(conn, *(build(f"b{number}", upstream=beta.id) for number in range(3)))
    page = olga.get(LIST).text
    text = extract_text(page)
    assert "1 needs attention." in text
    assert "bound, but receipts match nothing" in text
    assert f'href="{LIST}/unmatched?upstream={alpha.id}"' in page
    assert f'href="{LIST}/unmatched?upstream={beta.id}"' not in page
    # They were matched later.
    conn.execute("DELETE FROM unmatched_receipts WHERE upstream = ?", (alpha.id,))
    assert "All work." in text_of(olga)


@pytest.mark.usefixtures("running")
def test_it_says_how_many_wait_and_since_when(olga, conn, cast, add):
    add("alpha", "refused", "the carrier refuses the bind with ESME_RBINDFAIL 0x0D", 0x0D)
    queue_messages(conn, cast.smpp_acme_1.id, 4)
    text = text_of(olga)
    assert "4 messages wait." in text
    assert "the oldest: 1 second ago" in text


def test_without_the_server_nothing_is_bound(olga, add):
    add("alpha")
    assert "The SMPP server isn’t running." in text_of(olga)


def test_without_any_it_says_what_one_is(olga):
    assert "No upstream yet" in text_of(olga)


@pytest.mark.usefixtures("running")
def test_an_open_page_is_told_what_looks_different(olga, conn, add):
    upstream = add("alpha")
    seen = olga.get(LIST).text.partition('name="seen" value="')[2].partition('"')[0]
    assert olga.get(f"{LIST}/live?seen={seen}", htmx=True).status_code == 204
    load.record_load(conn, upstream.id, UpstreamLoad(window_in_use=3, window=10))
    answer = olga.get(f"{LIST}/live?seen={seen}", htmx=True)
    assert "3/10" in answer.text
    assert 'hx-swap-oob="true"' in answer.text
    again = answer.text.partition('name="seen" value="')[2].partition('"')[0]
    assert olga.get(f"{LIST}/live?seen={again}", htmx=True).status_code == 204


# --- the form


def test_one_is_added_with_what_a_letter_says(olga, conn, keys):
    page = olga.get(f"{LIST}/add").text
    fields = fields_of(page)
    assert (fields["port"], fields["charset"], fields["tls_verify"]) == ("2775", "gsm", "y")
    answer = olga.post(f"{LIST}/add", data=fields | NEW | {"tls": "y", "window": "20"})
    assert answer.status_code == 303
    upstream = upstreams.get_upstream(conn, "coast")
    settings = upstream.settings
    assert (settings.host, settings.port, settings.window) == ("smpp.coast.example", 3550, 20)
    assert settings.tls
    assert upstream.is_default
    assert upstreams.get_upstream_password(conn, keys, upstream) == "secret"
    row = conn.execute("SELECT * FROM audit_log ORDER BY id DESC").fetchone()
    assert row["action"] == "upstream.add"
    assert "secret" not in str(tuple(row))
    # The form that is sent twice adds nothing.
    answer = olga.post(f"{LIST}/add", data=fields | NEW | {"name": "again"})
    assert answer.status_code == 303
    assert "This form was sent before" in olga.get(answer.location).text
    assert len(upstreams.list_upstreams(conn)) == 1


def test_there_may_be_no_default_upstream(olga, conn, add):
    first, second = add("first"), add("second")
    address = f"{LIST}/{first.id}/no-default"
    assert address in olga.get(LIST).text
    assert "What no route takes is refused" in extract_text(olga.get(address).text)
    assert olga.post(address).status_code == 303
    assert not any(each.is_default for each in upstreams.list_upstreams(conn))
    row = conn.execute("SELECT action, actor FROM audit_log ORDER BY id DESC").fetchone()
    assert tuple(row) == ("upstream.default", "olga@portal.example")
    # Somebody else's new default stays, where the question was about another one.
    upstreams.set_default_upstream(conn, SYSTEM, second)
    olga.post(address)
    assert upstreams.get_upstream(conn, "second").is_default


def test_errors_stand_at_their_fields_and_what_was_typed_stays(olga, conn):
    fields = fields_of(olga.get(f"{LIST}/add").text)
    answer = olga.post(f"{LIST}/add", data=fields | NEW | {"port": "70000", "receipt_timezone": "Nowhere"})
    assert answer.status_code == 422
    typed = fields_of(answer.text)
    assert (typed["port"], typed["host"], typed["password"]) == ("70000", "smpp.coast.example", "")
    assert "can't be the value of port. Possible: 1–65535." in extract_text(answer.text)
    assert "Enter the password once more." in extract_text(answer.text)
    assert "secret" not in answer.text
    # Of several, one is told at a time; a folded one opens.
    answer = olga.post(f"{LIST}/add", data=fields | NEW | {"receipt_timezone": "Nowhere"})
    assert '<details class="fold" open' in answer.text
    assert upstreams.list_upstreams(conn) == []


def test_a_simulator_is_added_and_has_no_other_setting(olga, conn):
    fields = fields_of(olga.get(f"{LIST}/add").text)
    answer = olga.post(f"{LIST}/add", data=fields | {"name": "sim", "kind": "simulator", "password": ""})
    assert answer.status_code == 303, extract_text(answer.text)
    sim = upstreams.get_upstream(conn, "sim")
    page = olga.get(f"{LIST}/{sim.id}/change").text
    assert "system_id" not in fields_of(page)
    answer = olga.post(f"{LIST}/{sim.id}/change", data=fields_of(page) | {"refund": "refused"})
    assert answer.status_code == 303
    assert upstreams.get_upstream(conn, "sim").settings.refund == "refused"


def test_a_change_stores_what_differs_and_an_empty_password_stays(olga, conn, keys, add):
    upstream = add("alpha")
    path = f"{LIST}/{upstream.id}/change"
    page = olga.get(path).text
    assert "secret" not in page
    answer = olga.post(path, data=fields_of(page) | {"throughput": "50", "name": "beta"})
    assert answer.status_code == 303
    # As a double click sends it.
    answer = olga.post(path, data=fields_of(page) | {"throughput": "50", "name": "beta"}, follow_redirects=True)
    assert "This form was sent before" in extract_text(answer.text)
    changed = upstreams.get_upstream(conn, "beta")
    assert changed.settings.throughput == 50
    assert upstreams.get_upstream_password(conn, keys, changed) == "secret"
    details = conn.execute("SELECT details FROM audit_log ORDER BY id DESC").fetchone()[0]
    assert "throughput" in details
    assert "window" not in details
    answer = olga.post(path, data=fields_of(olga.get(path).text) | {"password": "other"}, htmx=True)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, f"{LIST}/{upstream.id}")
    assert upstreams.get_upstream_password(conn, keys, changed) == "other"


def test_what_somebody_else_has_changed_is_not_overwritten_silently(olga, conn, keys, add):
    upstream = add("alpha")
    path = f"{LIST}/{upstream.id}/change"
    page = olga.get(path).text
    upstreams.change_upstream(conn, keys, SYSTEM, upstream, window=33)
    answer = olga.post(path, data=fields_of(page) | {"throughput": "50"})
    assert answer.status_code == 422
    text = extract_text(answer.text)
    assert "was changed by somebody else" in text
    assert "Window: 33" in text
    assert upstreams.get_upstream(conn, "alpha").settings.throughput == 0
    again = fields_of(answer.text)
    assert again["throughput"] == "50"
    # What is in the form holds, once that has been read.
    assert olga.post(path, data=again | {"window": "33"}).status_code == 303
    settings = upstreams.get_upstream(conn, "alpha").settings
    assert (settings.window, settings.throughput) == (33, 50)


# --- the states


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("action", "said", "verb"),
    [
        ("disable", "alpha is unbound, and gets nothing", "Disable alpha"),
        ("drain", "alpha gets no more messages", "Drain alpha"),
        ("enable", "alpha connects", "Enable alpha"),
        ("default", "alpha takes all that no route takes", "Make alpha the default one"),
    ],
)
def test_each_change_of_state_is_asked_first(olga, conn, add, action, said, verb):
    add("first")
    upstream = add("alpha")
    question = extract_text(olga.get(f"{LIST}/{upstream.id}/{action}", htmx=True).text)
    assert said in question
    assert "Nothing waits for it." in question
    assert verb in question
    before = upstreams.get_upstream(conn, "alpha")
    assert before.version == upstream.version
    assert olga.post(f"{LIST}/{upstream.id}/{action}").status_code == 303
    after = upstreams.get_upstream(conn, "alpha")
    expected = {
        "disable": (False, False, False),
        "drain": (True, True, False),
        "enable": (True, False, False),
        "default": (True, False, True),
    }
    assert (after.enabled, after.draining, after.is_default) == expected[action]


def test_one_is_removed_unless_it_is_in_use(olga, conn, add):
    first, second = add("first"), add("second")
    answer = olga.post(f"{LIST}/{first.id}/remove", follow_redirects=True)
    assert "is the default" in extract_text(answer.text) or "default" in extract_text(answer.text)
    assert len(upstreams.list_upstreams(conn)) == 2
    assert olga.post(f"{LIST}/{second.id}/remove").status_code == 303
    assert [each.name for each in upstreams.list_upstreams(conn)] == ["first"]


@pytest.mark.usefixtures("running")
def test_banner_and_cards_say_the_same_of_what_waits(olga, conn, cast, add):
    first, second = add("first"), add("second", "unbound", "the carrier has unbound")
    health.record_health(conn, second.id, UpstreamHealth("failing", now_ms(), "it is not bound"))
    assert "that one takes over" in text_of(olga)
    create_route(conn, "first,second")
    upstreams.drain_upstream(conn, SYSTEM, first)
    queue_messages(conn, cast.smpp_acme_1.id, 5)
    reroute(conn)
    text = text_of(olga)
    assert "5 messages wait. “second” is not connected: it has unbound." in text
    assert "No other upstream takes what waits for it." in text
    assert "that one takes over" not in text


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("action", ["drain", "disable"])
def test_it_is_told_that_no_other_upstream_takes_messages(olga, conn, add, action):
    first, second = add("first"), add("second")
    address = f"{LIST}/{first.id}/{action}"
    assert "No other upstream takes messages" not in extract_text(olga.get(address).text)
    upstreams.disable_upstream(conn, SYSTEM, second)
    assert "No other upstream takes messages at this moment" in extract_text(olga.get(address).text)
    assert "No other upstream" not in extract_text(olga.get(f"{LIST}/{first.id}/default").text)


def test_the_question_says_why_one_cannot_be_removed(olga, conn, add):
    first, second = add("first"), add("second")
    route = create_route(conn, "first,second")
    address = f"{LIST}/{second.id}/remove"
    page = olga.get(address).text
    assert f"Routes lead to “second”: {route.id}. Change them first" in extract_text(page)
    assert "Remove second" not in extract_text(page)
    routes.remove_route(conn, SYSTEM, route)
    assert "Remove second" in extract_text(olga.get(address).text)
    assert "is the default upstream" in extract_text(olga.get(f"{LIST}/{first.id}/remove").text)


@pytest.mark.usefixtures("running")
def test_the_page_of_one_has_its_binds_and_counts(olga, conn, add):
    upstream = add("alpha", "unbound", "no connection to h.example port 2775: Connection refused")
    counters.add_to_counters(conn, upstream.id, {"submitted": 1234})
    text = extract_text(olga.get(f"{LIST}/{upstream.id}").text)
    assert "1,234 submit_sm sent" in text or "submit_sm sent 1,234" in text
    assert "No connection to h.example port 2775: Connection refused." in text
    assert "Send a test message" in text


def test_nobody_else_sees_them(client, cast, add):
    add("alpha")
    assert client(cast.alice).get(LIST).status_code == 404
