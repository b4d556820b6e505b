"""The main jobs in browsers with other engines than Chromium's: by clicks at coordinates, and by keyboard."""

from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from portal.core import db
from portal.core.config import load_config
from tests.e2e.browsing import portal_url
from tests.e2e.engines import CommandError, Send, run_firefox, run_webkit
from tests.serving import run_server
from tests.smpplib_esme import SmpplibEsme
from tests.support import Cast, Person, RunningServer, copy_data_folder, wait_until

ACCOUNT = "/accounts/smpp-acme-1"

# Each script begins with it.
FIND_VISIBLE = """
const findVisible = (path) => {
  const found = document.evaluate(path, document, null, XPathResult.ORDERED_NODE_SNAPSHOT_TYPE, null);
  const elements = [...Array(found.snapshotLength).keys()].map((index) => found.snapshotItem(index));
  return elements.find((each) => each.checkVisibility());
};
"""
# Nothing as long as something moves: a dialog that opens, for instance.
MIDDLE = """
const element = findVisible(arguments[0]);
element.scrollIntoView({block: 'center', behavior: 'instant'});
const {x, y, width, height} = element.getBoundingClientRect();
return document.getAnimations().length ? null : [Math.round(x + width / 2), Math.round(y + height / 2)];
"""
# Of each visible field for dates, how much narrower it is than a copy that is as wide as its content.
MISSING_WIDTHS = """
return [...document.querySelectorAll('[type^=date]')].filter((each) => each.checkVisibility()).map((field) => {
  const copy = field.cloneNode();
  copy.style.cssText = 'position: absolute; width: max-content; min-width: 0';
  field.after(copy);
  const missing = copy.offsetWidth - field.offsetWidth;
  copy.remove();
  return missing;
});
"""
CODES = "return document.querySelector('#recovery-codes').innerText"
DAY = datetime.now(UTC) + timedelta(days=2)


class User:
    """Somebody before a browser. Elements are named by XPath; of several it is the first one in sight."""

    def __init__(self, send: Send, server: RunningServer) -> None:
        self.server = server
        self._send = send
        self._url = portal_url(server)
        self._recovery_codes: dict[Person, list[str]] = {}

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page; return what it returns."""
        return self._send("/execute/sync", {"script": FIND_VISIBLE + script, "args": list(arguments)})

    def wait_for(self, script: str, *arguments: Any) -> Any:
        """Wait until the script's result is true, and return it."""

        def try_to_run() -> Any:
            with suppress(CommandError):  # nothing is there yet, or the page is just being replaced
                return self.run(script, *arguments)

        try:
            return wait_until(try_to_run)
        except AssertionError:
            page = self.run("return location.href + '\\n' + document.body.innerText")
            raise AssertionError(f"waited in vain for {arguments} in {script} on {page}") from None

    def open(self, path: str) -> None:
        """Load a page of the portal, as by its address."""
        self._send("/url", {"url": self._url + path})

    def go_back(self) -> None:
        """Press the browser's own button."""
        self._send("/back", {})

    def see(self, text: str, within: str = "//body") -> None:
        """Wait until an element that is in sight has this text."""
        self.wait_for("return findVisible(arguments[0]).innerText.includes(arguments[1])", within, text)

    def expect_wide_date_fields(self) -> None:
        """There is a field for a date or more, and each has room for its content."""
        assert max(self.run(MISSING_WIDTHS)) <= 0

    def click(self, path: str) -> None:
        """Wait for an element, bring it into sight, and press the mouse where its middle is, whatever is there."""
        x, y = self.wait_for(MIDDLE, path)
        moves = [{"type": "pointerMove", "x": x, "y": y}, {"type": "pointerDown", "button": 0}]
        self._act("pointer", [*moves, {"type": "pointerUp", "button": 0}])

    def press(self, keys: str) -> None:
        """Press one key after the other."""
        self._act("key", [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")])

    def _act(self, kind: str, actions: list[dict[str, Any]]) -> None:
        self._send("/actions", {"actions": [{"type": kind, "id": kind, "actions": actions}]})

    def type_into(self, label: str, keys: str) -> None:
        """Click a field's label, which moves the focus to it, and type."""
        self.click(f"//label[starts-with(normalize-space(), '{label}')]")
        self.press(keys)

    def type_date(self, label: str, keys: str, field: str, value: str) -> None:
        """Type a date or time into a field, by its label, until the element `field` has this value.

        Once is enough unless the machine is busy: WebKit takes digits that come a second apart for two numbers.
        """

        def try_to_type() -> bool:
            self.type_into(label, keys)
            return bool(self.run("return document.querySelector(arguments[0]).value === arguments[1]", field, value))

        wait_until(try_to_type)

    def log_in(self, person: Person) -> None:
        """Log in through both steps, unless this person is logged in already; leads to the first page."""
        self.open("/")
        if person.email in self.run("return document.querySelector('.menu')?.textContent ?? ''"):
            return
        self.log_out()
        self.type_into("E-mail address", person.email)
        self.type_into("Password", person.password)
        self.click(button("Log in"))
        self.click("//summary[contains(., 'Without your phone')]")  # a code of the phone's is good once
        self.type_into("Recovery code", self._recovery_codes.setdefault(person, [*person.recovery_codes]).pop())
        self.click(button("Log in with it"))
        self.see("Your menu", "//summary")

    def log_out(self) -> None:
        """Log out, if somebody is logged in on the open page."""
        if self.run("return document.querySelector('.menu')"):
            self.click("//summary[contains(., 'Your menu')]")
            self.click(button("Log out"))
        self.wait_for("return location.pathname === '/login'")


def button(words: str, within: str = "") -> str:
    """The XPath of a button, or of a link that looks like one, that begins with these words."""
    return f"{within}//*[self::button or self::a][starts-with(normalize-space(), '{words}')]"


def row(text: str) -> str:
    """The XPath of a row of a list that has this text."""
    return f"//main//tbody/tr[contains(., '{text}')]"


@pytest.fixture(scope="module")
def cast(template: tuple[Path, Cast]) -> Cast:
    return template[1]


@pytest.fixture(scope="module", params=[run_webkit, run_firefox])
def user(
    request: pytest.FixtureRequest, template: tuple[Path, Cast], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[User]:
    """A browser and a server for all tests here: each changes something else."""
    data, cast = template
    data = copy_data_folder(data, tmp_path_factory.mktemp("server") / "data")
    with run_server(load_config(data=data, env={})) as server:
        with SmpplibEsme(server.port) as esme:
            assert esme.bind(cast.smpp_acme_1) == 0
            for text in ("First", "Second", "Third"):
                esme.send_text(text)
        # With the portal as the proxy no name is looked up: it is http://portal.test here, too.
        with request.param(tmp_path_factory.mktemp("browser"), server.url.removeprefix("http://")) as send:
            yield User(send, server)


@pytest.fixture
def alice(user: User, cast: Cast) -> User:
    user.log_in(cast.alice)
    return user


def test_a_row_of_the_accounts_is_a_link_and_values_can_be_copied(alice: User) -> None:
    for name in ("smpp-acme-2", "sms-acme-1", "smpp-acme-1"):
        alice.open("/")
        alice.click(row(name))
        alice.see(name, "//h1")
    alice.click(button("Copy", "//div[dt[contains(., 'SystemID')]]"))
    alice.see("Copied", "//div[dt[contains(., 'SystemID')]]")


def test_a_new_password_is_shown_in_the_dialog(alice: User) -> None:
    alice.open(ACCOUNT)
    alice.click(button("Generate a new password"))
    alice.click(button("Send", "//dialog"))
    alice.see("Your new password", "//dialog")
    alice.click(button("Done", "//dialog"))


def test_an_address_is_added_until_a_date_and_removed(alice: User) -> None:
    alice.open(f"{ACCOUNT}/options/smpp")
    alice.type_into("Expires", "O")  # "On a date…"
    alice.type_date("Date and time", f"{DAY:%m/%d/%Y}, 10:45 AM", "#until", f"{DAY:%Y-%m-%d}T10:45")
    alice.expect_wide_date_fields()
    alice.type_into("IP address or range", "203.0.113.7")
    alice.click(button("Add an IP"))
    alice.click(button("", row("203.0.113.7")))
    alice.click(button("Delete 203.0.113.7", "//dialog"))
    alice.see("203.0.113.7 was removed.")


def test_credits_are_transferred(alice: User) -> None:
    alice.open(f"{ACCOUNT}/credits")
    alice.click(button("Transfer credits"))
    alice.type_into("Credits", "40")
    alice.see("957 afterwards", "//dialog")
    alice.click(button("Transfer", "//dialog"))
    alice.see("40 credits moved to")


def test_a_row_of_the_history_is_a_link_but_for_its_checkbox(alice: User) -> None:
    for text in ("First", "Third", "Second"):
        alice.open(f"{ACCOUNT}/history")
        alice.click(row(text))
        alice.see(text, "//dialog")
    # No link covers what is beside or below its row.
    alice.open(f"{ACCOUNT}/history")
    alice.click(row("Second") + "//input")
    alice.click(button("Delete the selected ones"))
    alice.see("1 stays", "//dialog")


def test_fields_for_dates_are_as_wide_as_dates(alice: User, cast: Cast) -> None:
    for page in ("credits", "received", "statistics", "history"):
        alice.open(f"{ACCOUNT}/{page}?period=range")
        alice.expect_wide_date_fields()
    alice.type_date("From", f"{DAY:%m/%d/%Y}", "#from", f"{DAY:%Y-%m-%d}")
    alice.log_in(cast.olga)
    for path in ("/admin/accounts/smpp-acme-1", "/admin/prices/1/set"):
        alice.open(path)
        alice.expect_wide_date_fields()


# Back leads to no page of an account here: these ask for news, and so find out by themselves, later.
def test_after_a_logout_back_leads_to_the_login(alice: User) -> None:
    alice.log_out()
    alice.go_back()
    alice.see("E-mail address")


def test_after_the_session_was_ended_elsewhere_back_leads_to_the_login(alice: User, cast: Cast) -> None:
    alice.click("//summary[contains(., 'Your menu')]")
    alice.click(button("Profile"))
    alice.see("Recovery codes")
    with closing(alice.server.connect()) as conn, db.write_transaction(conn):
        conn.execute("DELETE FROM login_sessions WHERE user_id = ?", (cast.alice.id,))
    alice.go_back()
    alice.see("E-mail address")


# Firefox doesn't keep answers to a POST.
@pytest.mark.parametrize("user", [run_webkit], indirect=True)
def test_back_keeps_what_is_shown_once(user: User, cast: Cast) -> None:
    user.log_in(cast.bob)
    user.open("/profile")
    user.click("//section[@id='recovery']//input[@type='password']")
    user.press(cast.bob.password)
    user.click(button("Make new recovery codes"))
    user.see("I have kept them")
    codes = user.run(CODES)
    user.click(button("I have kept them"))
    user.see("10 left")
    user.go_back()
    user.see("I have kept them")
    assert user.run(CODES) == codes
