"""Testing a connection before it is saved, and sending a test message, from the pages."""

import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from portal.core import db
from portal.core.crypto import Keys
from portal.services.accounts import session_records
from portal.services.messages import trial_messages as sent_messages
from portal.services.messages.trial_messages import UpstreamTestAnswer
from portal.services.upstreams import binds, upstreams
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.upstreams import Upstream
from portal.web.upstreams import connection_tests
from portal.web.upstreams.connection_tests import ConnectionTest
from tests.services.upstreams.waiting import add_upstream
from tests.support import ROOT, Cast, Person, find_free_port
from tests.web.acting import extract_text
from tests.web.conftest import Browser
from tests.web.html import read_form_fields

Client = Callable[[Person], Browser]
LIST = "/admin/upstreams"


@pytest.fixture
def olga(client: Client, cast: Cast) -> Browser:
    return client(cast.olga)


@pytest.fixture
def carrier(conn: db.Connection, keys: Keys) -> Upstream:
    """One that is bound, as far as the server has said."""
    upstream = add_upstream(conn, keys)
    session_records.record_component_heartbeat(conn, "smsc", 0)
    binds.record_bind_states(conn, upstream.id, [BindState(1, "trx", "bound", 1)])
    return upstream


# --- the connection


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are started as those of the program are."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / "app.py")])


def fields_of(olga: Browser, path: str, **typed: Any) -> dict[str, Any]:
    return read_form_fields(olga.get(path).text, "upstream-form") | typed


@pytest.mark.slow
@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "refuses the connection: compare “Port” with the carrier's letter"),
        ("it", "rifiuta la connessione: confrontare “Porta” con la lettera del carrier"),
    ],
)
def test_each_step_is_told_in_the_reader_s_language(olga, conn, language, said):
    olga.post("/language", data={"locale": language})
    typed = {"name": "x", "host": "127.0.0.1", "port": str(find_free_port()), "system_id": "acme", "password": "pw"}
    answer = olga.post(f"{LIST}/test", data=fields_of(olga, f"{LIST}/add", **typed), htmx=True)
    assert answer.status_code == 200
    test = find_test(answer.text)
    test.wait(30)
    answer = olga.get(f"{LIST}/tests/{test.id}", htmx=True)
    assert said in extract_text(answer.text)
    # It asks no more, and nothing was stored.
    assert "hx-get" not in answer.text
    assert upstreams.list_upstreams(conn) == []


@pytest.mark.slow
@pytest.mark.usefixtures("program")
def test_without_htmx_the_form_is_shown_again_with_the_steps(olga, carrier, conn):
    path = f"{LIST}/{carrier.id}"
    typed = {"host": "127.0.0.1", "port": str(find_free_port()), "window": "77", "password": "pw"}
    answer = olga.post(f"{path}/test", data=fields_of(olga, f"{path}/change", **typed))
    assert answer.status_code == 200
    assert "refuses the connection" in extract_text(answer.text)
    assert read_form_fields(answer.text, "upstream-form")["window"] == "77"
    assert upstreams.get_upstream(conn, "carrier").settings.window == 10
    query = "SELECT actor, details FROM audit_log WHERE action = 'upstream.test'"
    (row,) = [(actor, json.loads(details)) for actor, details in conn.execute(query)]
    where = {"host": "127.0.0.1", "port": int(typed["port"]), "second_host": "", "second_port": None, "tls": False}
    assert row == ("olga@portal.example", {"name": "carrier", **where, "with_stored_password": False})


@pytest.mark.parametrize("is_saved", [False, True])
@pytest.mark.parametrize("htmx", [False, True])
def test_the_stored_password_goes_only_where_it_was_entered_for(olga, conn, carrier, monkeypatch, is_saved, htmx):
    monkeypatch.setattr(connection_tests, "start", None)
    path = f"{LIST}/{carrier.id}"
    form = fields_of(olga, f"{path}/change", port=str(carrier.settings.port + 1))
    answer = olga.post(f"{path}/{'change' if is_saved else 'test'}", data=form, htmx=htmx)
    assert answer.status_code == 422
    assert "enter it again for another host or port" in extract_text(answer.text)
    assert upstreams.get_upstream(conn, "carrier") == carrier
    assert conn.execute("SELECT 1 FROM audit_log WHERE action = 'upstream.test'").fetchone() is None


def test_what_cannot_be_set_is_told_without_losing_what_was_typed(olga):
    typed = {"name": "x", "host": "h.example", "port": "70000", "system_id": "acme", "password": "pw"}
    answer = olga.post(f"{LIST}/test", data=fields_of(olga, f"{LIST}/add", **typed), htmx=True)
    assert answer.status_code == 422
    assert "Port: “70000” can't be the value of port" in extract_text(answer.text)
    # The answer is the place of the steps alone.
    assert answer.text.lstrip().startswith('<div id="connection-test"')
    without_password = typed | {"port": "1", "password": ""}
    answer = olga.post(f"{LIST}/test", data=fields_of(olga, f"{LIST}/add", **without_password), htmx=True)
    assert "password has 1 to 8 characters" in extract_text(answer.text)


@pytest.fixture
def silent_server() -> Iterator[dict[str, str]]:
    """The fields of an upstream that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {"name": "x", "host": "127.0.0.1", "port": str(server.getsockname()[1])} | {
            "system_id": "acme",
            "password": "pw",
        }


def find_test(page: str) -> ConnectionTest:
    """The test whose steps a page asks for."""
    test = connection_tests.find(int(page.partition('hx-get="')[2].partition('"')[0].rpartition("/")[2]))
    assert test
    return test


@pytest.mark.slow
@pytest.mark.usefixtures("program")
def test_four_run_at_a_time_and_the_next_one_when_one_of_them_has_ended(olga, silent_server):
    fields = fields_of(olga, f"{LIST}/add", **silent_server)
    running = []
    try:
        running += [find_test(olga.post(f"{LIST}/test", data=fields, htmx=True).text) for _ in range(4)]
        answer = olga.post(f"{LIST}/test", data=fields, htmx=True)
        assert answer.status_code == 422
        assert "Other connections are being tested" in extract_text(answer.text)
        running[0].process.kill()
        running[0].wait(30)
        running.append(find_test(olga.post(f"{LIST}/test", data=fields, htmx=True).text))
        assert [each.is_over for each in running] == [True, False, False, False, False]
    finally:
        for each in running:
            each.process.kill()
            each.wait(30)


@pytest.mark.slow
@pytest.mark.usefixtures("program")
def test_one_that_takes_too_long_ends_by_itself_whoever_waits_for_it(olga, silent_server, monkeypatch):
    monkeypatch.setattr(connection_tests, "_MAX_SECONDS", 1)
    fields = fields_of(olga, f"{LIST}/add", **silent_server)
    page = olga.post(f"{LIST}/test", data=fields, htmx=True).text
    test = find_test(page)
    test.wait(30)
    assert test.process.returncode == -signal.SIGALRM
    assert "The test itself has failed." in extract_text(olga.get(f"{LIST}/tests/{test.id}").text)


def test_one_that_nobody_knows_any_more_says_so(olga):
    assert "begin a new one" in extract_text(olga.get(f"{LIST}/tests/999999").text)


# --- a message


def send(olga: Browser, upstream: Upstream, htmx: bool = False, **typed: str) -> Any:
    page = olga.get(f"{LIST}/{upstream.id}").text
    key = page.partition('name="form"')[2].partition('value="')[2].partition('"')[0]
    values = {"form": key, "number": "+39 340 1234567", "sender": "ACME", "text": "hello"}
    return olga.post(f"{LIST}/{upstream.id}/messages", data=values | typed, htmx=htmx)


def test_a_message_is_handed_to_the_server_once(olga, conn, carrier):
    assert send(olga, carrier).status_code == 303
    (sent,) = sent_messages.list_test_messages(conn, carrier.id, 5)
    assert (sent.destination, sent.source, sent.text, sent.state) == ("393401234567", "ACME", "hello", "waiting")
    page = olga.get(f"{LIST}/{carrier.id}").text
    key = page.partition('name="form"')[2].partition('value="')[2].partition('"')[0]
    assert send(olga, carrier, form=key).status_code == 303
    assert "This form was sent before" in olga.get(send(olga, carrier, form=key).location).text
    # For htmx the same: the page is loaded anew.
    assert send(olga, carrier, htmx=True, form=key).headers["HX-Redirect"] == f"{LIST}/{carrier.id}"
    assert len(sent_messages.list_test_messages(conn, carrier.id, 5)) == 2
    row = conn.execute("SELECT * FROM audit_log WHERE action = 'upstream.test_message'").fetchone()
    assert "340" not in str(tuple(row))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"number": "abc"}, "abc is no number"),
        ({"number": ""}, "is no number"),
        ({"sender": "!"}, "can't be a sender"),
        ({"text": " "}, "can't be empty"),
        ({"text": "x" * 161}, "nor longer than one part"),
        ({"text": "ж" * 71}, "nor longer than one part"),
    ],
)
def test_what_cannot_be_sent_is_told_at_its_field(olga, conn, carrier, typed, said):
    answer = send(olga, carrier, htmx=True, **typed)
    assert answer.status_code == 422
    assert said in extract_text(answer.text)
    assert 'value="ACME"' in answer.text or typed.get("sender")
    assert sent_messages.list_test_messages(conn, carrier.id, 5) == []


def test_its_outcome_is_told_until_nothing_more_is_expected(olga, conn, carrier):
    send(olga, carrier)
    path = f"{LIST}/{carrier.id}/messages"
    answer = olga.get(path, htmx=True)
    assert "is being sent" in extract_text(answer.text)
    assert "load delay:1s" in answer.text
    sent_messages.store_answers(conn, [UpstreamTestAnswer(1, "accepted", "a-1")])
    answer = olga.get(path, htmx=True)
    assert "its receipt is still to come" in extract_text(answer.text)
    assert "the carrier’s id: a-1" in extract_text(answer.text)
    assert "load delay:3s" in answer.text
    conn.execute("UPDATE test_messages SET state = 'delivered'")
    answer = olga.get(path, htmx=True)
    assert "has arrived" in extract_text(answer.text)
    assert "hx-get" not in answer.text


def test_one_that_is_not_bound_sends_none(olga, conn, carrier):
    binds.record_bind_states(conn, carrier.id, [BindState(1, "trx", "refused", 1, "no")])
    answer = send(olga, carrier)
    assert answer.status_code == 422
    assert "is not bound, so it can't send anything now" in extract_text(answer.text)
