"""Open pages stay true: one small question, answered with what has changed since."""

import gzip
import html
import re
from collections.abc import Callable

import pytest
from werkzeug.test import TestResponse

from portal.core import clock, db
from portal.services.accounts import accounts, allowed_ips
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.services.senders import senders
from tests.support import Cast, Person, wait_until
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser
from tests.web.html import remove_layout

Client = Callable[[Person], Browser]
NAME = "smpp-acme-1"
HOME = f"/accounts/{NAME}"
PAGES = {
    "home": HOME,
    "options": f"{HOME}/options/smpp",
    "sessions": f"{HOME}/sessions",
    "senders": f"{HOME}/senders",
    "credits": f"{HOME}/credits",
    "history": f"{HOME}/history",
}


class OpenPage:
    """A page as a browser has it open: it polls as the page says, and shows what it gets."""

    def __init__(self, browser: Browser, address: str) -> None:
        # What says how long ago something was is drawn anew with each minute; nothing else shall happen meanwhile.
        wait_until(lambda: clock.now_ms() % 60_000 < 57_000)
        self._browser = browser
        self.text = browser.get(address).text
        fields = re.findall(r'class="live-arg" name="(\w+)" value="([^"]*)"', self.text)
        self._fields = "".join(f"&{name}={value}" for name, value in fields)
        self._read(self.text)

    def _read(self, text: str) -> None:
        poll = re.search(r'<div id="live" hidden hx-get="([^"]+)"[^>]*hx-trigger="every (\w+),', text)
        assert poll
        self._address, self.every = html.unescape(poll[1]), poll[2]

    def ask(self) -> TestResponse:
        answer = self._browser.get(self._address + self._fields, htmx="live")
        if answer.status_code == 200:
            self._read(answer.text)
        return answer


@pytest.fixture
def alice(client: Client, cast: Cast, conn: db.Connection) -> Browser:
    acting.age_smpp_passwords(conn)
    acting.confirm_changes(conn)
    return client(cast.alice)


@pytest.mark.parametrize("page", PAGES)
def test_nothing_has_changed(alice: Browser, page: str) -> None:
    opened = OpenPage(alice, PAGES[page])
    for _ in range(2):
        answer = opened.ask()
        assert (answer.status_code, answer.data) == (204, b"")
    assert opened.every == "2s"


def test_a_message_moves_balance_and_statistics_and_nothing_else(alice: Browser, conn: db.Connection) -> None:
    opened = OpenPage(alice, HOME)
    acting.send_texts(conn, NAME, "hello")
    answer = opened.ask()
    text = extract_text(answer.text)
    assert "999 credits" in text
    assert "sent 1" in text
    assert 'id="statistics"' in answer.text
    for unmoved in ('id="general"', 'id="status"', 'id="refused"', "The status is now"):
        assert unmoved not in answer.text
    assert opened.ask().status_code == 204


def test_the_period_that_was_chosen_stays(alice: Browser, conn: db.Connection) -> None:
    opened = OpenPage(alice, f"{HOME}?period=7d")
    acting.send_texts(conn, NAME, "hello")
    assert 'href="?period=7d" aria-current="true"' in opened.ask().text


def test_a_final_status_reaches_statistics_and_history(alice: Browser, conn: db.Connection) -> None:
    ids = acting.send_texts(conn, NAME, "hello")
    home, history = OpenPage(alice, HOME), OpenPage(alice, PAGES["history"])
    assert "On its way" in history.text
    acting.deliver_messages(conn, *ids)
    assert "delivered · 100 %" in extract_text(home.ask().text)
    assert "hello 1 1 Delivered" in extract_text(history.ask().text)


def test_new_messages_appear_on_the_first_page_and_leave_the_others(alice: Browser, conn: db.Connection) -> None:
    acting.send_texts(conn, NAME, *(f"text {number}." for number in range(30)))
    first = OpenPage(alice, PAGES["history"])
    older = first.text.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0]
    second = OpenPage(alice, PAGES["history"] + older)
    acting.send_texts(conn, NAME, "a new one")
    assert "a new one" in first.ask().text
    assert 'id="history-list"' not in second.ask().text


def test_a_change_is_underway_and_then_confirmed(alice: Browser, conn: db.Connection) -> None:
    opened = OpenPage(alice, PAGES["options"])
    allowed_ips.add_allowed_ip(conn, SHELL, acting.get_account(conn, NAME), "203.0.113.7", label="New")
    answer = opened.ask()
    text = extract_text(answer.text)
    for each in ("The status is now: Updating", "203.0.113.7 New", "3/10", "Add an IP (3/10)"):
        assert each in text
    assert opened.every == "500ms"
    acting.confirm_changes(conn)
    answer = opened.ask()
    assert "The status is now: OK" in extract_text(answer.text)
    assert opened.every == "2s"
    assert opened.ask().status_code == 204


@pytest.mark.parametrize("page", ["options", "senders"])
def test_what_is_typed_into_is_never_replaced(alice: Browser, conn: db.Connection, page: str) -> None:
    opened = OpenPage(alice, PAGES[page])
    assert '<form class="form' in opened.text
    senders.add_sender(conn, SHELL, acting.get_account(conn, NAME), "SHOP")
    allowed_ips.add_allowed_ip(conn, SHELL, acting.get_account(conn, NAME), "203.0.113.7")
    answer = opened.ask()
    assert answer.status_code == 200
    # A selection survives the update: that is up to app.js, and tested in a browser (e2e/test_senders.py).
    assert not re.findall(r"<form|<textarea|<select|<input(?! type=.(hidden|checkbox))", answer.text)


def test_who_connects_and_who_is_refused(alice: Browser, conn: db.Connection) -> None:
    home, sessions = OpenPage(alice, HOME), OpenPage(alice, PAGES["sessions"])
    acting.open_session(conn, NAME)
    text = extract_text(home.ask().text)
    assert "1 session from 198.51.100.20" in text
    assert "· 1" in text
    assert "198.51.100.20 Transceiver" in extract_text(sessions.ask().text)
    acting.refuse_binds(conn, NAME, "203.0.113.7")
    assert "203.0.113.7 : It is not an authorised IP." in extract_text(home.ask().text)
    answer = sessions.ask()
    assert "203.0.113.7 It is not an authorised IP." in extract_text(answer.text)
    assert 'id="open"' not in answer.text


def test_what_passes_through_a_session(alice: Browser, conn: db.Connection) -> None:
    acting.open_session(conn, NAME)
    sessions = OpenPage(alice, PAGES["sessions"])
    conn.execute("UPDATE connections SET submitted = 12840, window = 7")
    assert "7/10 0 12,840" in extract_text(sessions.ask().text)


def test_what_changes_without_being_seen_replaces_nothing(alice: Browser, conn: db.Connection) -> None:
    acting.open_session(conn, NAME)
    opened = OpenPage(alice, HOME)
    conn.execute("UPDATE connections SET submitted = 12840")
    answer = opened.ask()
    assert answer.status_code == 200
    assert "hx-swap-oob" not in answer.text
    assert opened.ask().status_code == 204


def test_an_answer_is_small_where_the_browser_can_read_it(alice: Browser, conn: db.Connection) -> None:
    for number in range(1, 11):
        acting.open_session(conn, NAME, number)
    # "Since 4 seconds" would be another text a second later.
    conn.execute("UPDATE connections SET bound_at = bound_at - ?", (2 * clock.DAY_MS,))
    address = f"{HOME}/live?page=sessions"
    plain = alice.get(address, htmx="live")
    small = alice.get(address, htmx="live", headers={"Accept-Encoding": "gzip, deflate"})
    assert small.headers["Content-Encoding"] == "gzip"
    whole = gzip.decompress(small.data)
    assert remove_layout(whole.decode()) == plain.text
    assert len(small.data) < len(whole) / 4
    assert "Content-Encoding" not in plain.headers


def test_a_client_that_falls_silent(alice: Browser, conn: db.Connection) -> None:
    acting.open_session(conn, NAME)
    sessions = OpenPage(alice, PAGES["sessions"])
    assert sessions.ask().status_code == 204
    conn.execute("UPDATE connections SET seen_at = seen_at - 20000")
    assert "active: less than a minute ago" in extract_text(sessions.ask().text)


def test_credits_that_come(alice: Browser, conn: db.Connection) -> None:
    opened = OpenPage(alice, PAGES["credits"])
    credits.grant_credits(conn, SHELL, acting.get_account(conn, NAME), 500_000, note="Welcome")
    text = extract_text(opened.ask().text)
    assert "1,500 credits" in text
    assert "Granted Welcome operator +500 1,500" in text


def test_an_operator_s_decision(alice: Browser, conn: db.Connection) -> None:
    senders.add_sender(conn, SHELL, acting.get_account(conn, NAME), "SHOP")
    opened = OpenPage(alice, PAGES["senders"])
    senders.decide_sender(conn, SHELL, acting.get_account(conn, NAME), "SHOP", approve=True)
    assert "SHOP Letters and digits Enabled" in extract_text(opened.ask().text)


def test_the_account_is_disabled(alice: Browser, conn: db.Connection) -> None:
    opened = OpenPage(alice, HOME)
    accounts.disable_account(conn, SHELL, acting.get_account(conn, NAME))
    text = extract_text(opened.ask().text)
    assert "The status is now: Disabled" in text
    assert "Not possible while the account is disabled." in text


def test_the_other_accounts_at_the_side(alice: Browser, conn: db.Connection) -> None:
    opened = OpenPage(alice, HOME)
    credits.grant_credits(conn, SHELL, acting.get_account(conn, "sms-acme-1"), 500_000)
    answer = opened.ask()
    assert 'hx-swap-oob="innerHTML:#side-sms-acme-1"' in answer.text
    assert "sms-acme-1 550" in extract_text(answer.text)
    assert 'id="statistics"' not in answer.text


def test_a_classic_account_s_home(alice: Browser, conn: db.Connection) -> None:
    opened = OpenPage(alice, "/accounts/sms-acme-1")
    assert opened.ask().status_code == 204
    credits.grant_credits(conn, SHELL, acting.get_account(conn, "sms-acme-1"), 500_000)
    assert "550 credits" in extract_text(opened.ask().text)


def test_an_answer_is_small(alice: Browser, conn: db.Connection) -> None:
    opened = OpenPage(alice, HOME)
    acting.send_texts(conn, NAME, "hello")
    assert len(opened.ask().data) < 6000


@pytest.mark.parametrize("seen", ["", "nonsense", "a.b.c.d.e.f.g.h.i.j.k", "."])
def test_a_page_that_has_seen_something_else_gets_everything(alice: Browser, seen: str) -> None:
    answer = alice.get(f"{HOME}/live?page=home&seen={seen}", htmx="live")
    assert answer.status_code == 200
    assert 'id="general"' in answer.text
    assert 'id="statistics"' in answer.text


def test_a_page_that_does_not_exist(alice: Browser) -> None:
    assert alice.get(f"{HOME}/live?page=nonsense").status_code == 404
    assert alice.get(f"{HOME}/live").status_code == 404


def test_a_viewer_is_told_the_same_without_buttons(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.confirm_changes(conn)
    opened = OpenPage(client(cast.bob), HOME)
    acting.refuse_binds(conn, NAME, "203.0.113.7")
    answer = opened.ask()
    assert "203.0.113.7 : It is not an authorised IP." in extract_text(answer.text)
    assert "<button" not in answer.text


def test_an_open_page_alone_keeps_nobody_logged_in(alice: Browser, conn: db.Connection) -> None:
    opened = OpenPage(alice, HOME)
    conn.execute("UPDATE login_sessions SET seen_at = seen_at - 3600000")
    (before,) = conn.execute("SELECT seen_at FROM login_sessions").fetchone()
    opened.ask()
    assert tuple(conn.execute("SELECT seen_at FROM login_sessions").fetchone()) == (before,)
    alice.get(HOME)
    assert conn.execute("SELECT seen_at FROM login_sessions").fetchone()[0] > before


def test_another_customer_and_nobody_are_told_nothing(client: Client, browser: Browser, cast: Cast) -> None:
    assert client(cast.charlie).get(f"{HOME}/live?page=home", htmx="live").status_code == 404
    answer = browser.get(f"{HOME}/live?page=home", htmx="live")
    assert (answer.status_code, answer.data) == (204, b"")
    assert answer.headers["HX-Redirect"].startswith("/login")
