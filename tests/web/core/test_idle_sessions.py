"""What open pages ask by themselves doesn't keep an idle session alive; what people do, does."""

import html
import re
from pathlib import Path

from portal.core import db, paths
from portal.core.clock import HOUR_MS, now_ms
from portal.core.crypto import Keys
from portal.services.accounts import accounts, session_records
from portal.services.common.audit import SHELL
from portal.services.messages import trial_messages as sent_messages
from portal.services.upstreams import binds, traces
from portal.services.upstreams.binds import BindState
from tests.services.upstreams.waiting import add_upstream
from tests.support import Cast
from tests.web.conftest import Browser

POLLING_TAG = re.compile(r'<[^>]*\bhx-trigger="(?:every|load delay)[^>]*>')
# Those that poll, each with a page that has it.
PAGES = {
    "_poll.html": "/accounts/smpp-acme-1",
    "_part_poll.html": "/admin/upstreams",
    "admin/_status.html": "/admin/accounts/smpp-acme-1",
    "upstreams/_queue.html": "/admin/queue",
    "upstreams/_trace_poll.html": "/admin/upstreams/1/trace",
    "upstreams/_messages.html": "/admin/upstreams/1",
}
# A test of a connection asks here until it is over; this one is over, and the address is the same.
STEPS = "/admin/upstreams/tests/1"


def test_all_that_polls_is_known() -> None:
    templates: Path = paths.TEMPLATES
    polling = {
        str(each.relative_to(templates))
        for each in templates.rglob("*.html")
        if re.search(r"hx-trigger['\"]?[=:] ?['\"](?:every|load delay)", each.read_text())
    }
    assert polling == {*PAGES, "upstreams/_steps.html"}


def test_what_open_pages_ask_by_themselves_keeps_no_session_alive(
    olga: Browser, conn: db.Connection, keys: Keys, cast: Cast
) -> None:
    carrier = add_upstream(conn, keys)
    session_records.record_component_heartbeat(conn, "smsc", 0)
    binds.record_bind_states(conn, carrier.id, [BindState(1, "trx", "bound", 1)])
    traces.start_trace(conn, SHELL, carrier, 5)
    sent_messages.send_test_message(conn, SHELL, carrier, "", "393401234567", "hello")
    accounts.disable_account(conn, SHELL, accounts.get_account(conn, cast.smpp_acme_1.name))
    polls = [STEPS, "/admin/routes/live"]
    for page in PAGES.values():
        tags = POLLING_TAG.findall(olga.get(page).text)
        assert tags, page
        polls += [html.unescape(re.findall(r'hx-get="([^"]+)"', each)[0]) for each in tags]
    polls[polls.index(next(each for each in polls if "/live?seen" in each and "accounts" in each))] += "&page=home"
    before = now_ms() - HOUR_MS
    for each in polls:
        conn.execute("UPDATE login_sessions SET seen_at = ?", (before,))
        assert olga.get(each, htmx="live").status_code in (200, 204), each
        assert conn.execute("SELECT max(seen_at) FROM login_sessions").fetchone()[0] == before, each
    # Who looks at it in a page of its own, or sends a form, is there.
    for ask in (olga.get, olga.post):
        conn.execute("UPDATE login_sessions SET seen_at = ?", (before,))
        ask(f"/admin/upstreams/{carrier.id}/messages")
        assert conn.execute("SELECT max(seen_at) FROM login_sessions").fetchone()[0] > before
