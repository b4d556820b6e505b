"""The operators' page of an upstream's PDUs."""

from collections.abc import Callable

import pytest

from portal.core import db
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.services.common.audit import SYSTEM
from portal.services.upstreams import traces, upstreams
from portal.services.upstreams.traces import TracedPdu
from portal.services.upstreams.upstreams import Upstream
from tests.services.upstreams.waiting import add_upstream
from tests.support import Cast, Person
from tests.web.acting import extract_text
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]


@pytest.fixture
def olga(client: Client, cast: Cast) -> Browser:
    return client(cast.olga)


@pytest.fixture
def carrier(conn: db.Connection, keys: Keys) -> Upstream:
    return add_upstream(conn, keys)


def path_of(upstream: Upstream) -> str:
    return f"/admin/upstreams/{upstream.id}/trace"


def store(conn: db.Connection, upstream: Upstream, *commands: str, status: str = "") -> None:
    pdus = [TracedPdu(now_ms(), True, 1, 7, each, status, {"sm_length": "5"}) for each in commands]
    traces.store_pdus(conn, upstream.id, pdus, 3)


def key_of(page: str) -> str:
    return page.partition('name="form"')[2].partition('value="')[2].partition('"')[0]


def find_poll(page: str) -> str:
    """The address that the page asks; empty: it asks none."""
    tag = page.partition('<div id="trace"')[2].partition(">")[0]
    return tag.partition('hx-get="')[2].partition('"')[0].replace("&amp;", "&")


def test_it_is_started_once_and_stopped(olga, conn, carrier):
    path = path_of(carrier)
    page = olga.get(path).text
    assert find_poll(page) == ""
    assert "Stop" not in extract_text(page)
    key = key_of(page)
    answer = olga.post(path, data={"form": key, "minutes": "5"})
    assert (answer.status_code, answer.location) == (303, path)
    answer = olga.post(path, data={"form": key, "minutes": "5"}, follow_redirects=True)
    assert "This form was sent before" in extract_text(answer.text)
    page = olga.get(path).text
    assert "traced until" in extract_text(page)
    assert "No PDU yet" in extract_text(page)
    assert find_poll(page)
    assert olga.post(f"{path}/stop").status_code == 303
    assert traces.list_running_traces(conn) == {}
    assert "ended at" in extract_text(olga.get(path).text)
    actions = [row[0] for row in conn.execute("SELECT action FROM audit_log ORDER BY id DESC LIMIT 2")]
    assert actions == ["upstream.trace_stop", "upstream.trace"]
    # What has ended already isn't stopped once more.
    assert olga.post(f"{path}/stop").status_code == 303
    assert conn.execute("SELECT count(*) FROM audit_log WHERE action = 'upstream.trace_stop'").fetchone()[0] == 1


@pytest.mark.parametrize("minutes", ["0", "61", "soon", ""])
def test_what_is_no_number_of_minutes_is_told_at_its_field(olga, conn, carrier, minutes):
    path = path_of(carrier)
    answer = olga.post(path, data={"form": key_of(olga.get(path).text), "minutes": minutes})
    assert answer.status_code == 422
    assert "A trace takes from 1 to 60 minutes." in extract_text(answer.text)
    assert f'value="{minutes}"' in answer.text
    assert traces.get_trace(conn, carrier.id) is None


def test_the_open_page_is_told_of_new_ones_and_asks_no_more_after_the_end(olga, conn, carrier):
    traces.start_trace(conn, SYSTEM, carrier, 5)
    poll = find_poll(olga.get(path_of(carrier)).text)
    assert olga.get(poll, htmx=True).status_code == 204
    store(conn, carrier, "submit_sm_resp", status="ESME_RTHROTTLED 0x58")
    answer = olga.get(poll, htmx=True)
    text = extract_text(answer.text)
    assert "→ submit_sm_resp" in text
    assert "ESME_RTHROTTLED 0x58" in text
    assert "sm_length 5" in text
    assert "3 PDUs came too fast to be kept." in text
    poll = find_poll(answer.text)
    assert olga.get(poll, htmx=True).status_code == 204
    conn.execute("UPDATE upstream_traces SET ends_at = ?", (now_ms() - 10_000,))
    answer = olga.get(poll, htmx=True)
    assert answer.status_code == 200
    assert find_poll(answer.text) == ""


def test_older_ones_are_on_further_pages_which_stay_as_they_are(olga, conn, carrier):
    traces.start_trace(conn, SYSTEM, carrier, 5)
    store(conn, carrier, *(f"pdu_{number}." for number in range(150)))
    page = olga.get(path_of(carrier)).text
    assert "pdu_149." in page
    assert "pdu_100." in page
    assert "pdu_99." not in page
    query = page.partition('href="?before=')[2].partition('"')[0]
    older = olga.get(f"{path_of(carrier)}?before={query}").text
    assert "pdu_99." in older
    assert "pdu_100." not in older
    assert find_poll(older) == ""


def test_a_simulator_has_none(olga, conn, keys):
    sim = upstreams.create_upstream(conn, keys, SYSTEM, "sim", kind="simulator")
    page = olga.get(path_of(sim)).text
    assert "A simulator sends no PDUs." in extract_text(page)
    answer = olga.post(path_of(sim), data={"form": key_of(page), "minutes": "5"})
    assert answer.status_code == 422
    assert traces.get_trace(conn, sim.id) is None
