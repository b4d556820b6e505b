"""The main jobs in browsers with other engines than Chromium's: by clicks at coordinates, and by keyboard."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browsing import portal_url
from tests.e2e.engines import CommandError, Send, run_firefox, run_webkit
from tests.smpplib_esme import SmpplibEsme
from tests.support import Cast, Person, RunningServer, wait_until

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


class User:
    """Somebody before a browser. Elements are named by XPath; of several it is the first one in sight."""

    def __init__(self, send: Send, server: RunningServer) -> None:
        self._send = send
        self._url = portal_url(server)

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

    def log_in(self, person: Person) -> None:
        """Through both steps."""
        self.open("/login")
        self.type_into("E-mail address", person.email)
        self.type_into("Password", person.password)
        self.click(button("Log in"))
        self.type_into("Code", person.totp_code())
        self.click(button("Log in"))
        self.see("Your menu", "//summary")


def button(words: str, within: str = "") -> str:
    """The XPath of a button, or of a link that looks like one, that begins with these words."""
    return f"{within}//*[self::button or self::a][starts-with(normalize-space(), '{words}')]"


def row(text: str) -> str:
    """The XPath of a row of a list that has this text."""
    return f"//main//tbody/tr[contains(., '{text}')]"


@pytest.fixture(params=[run_webkit, run_firefox])
def user(request: pytest.FixtureRequest, tmp_path: Path, server: RunningServer) -> Iterator[User]:
    folder = tmp_path / "browser"
    folder.mkdir()
    # With the portal as the proxy no name is looked up: it is http://portal.test here, too.
    with request.param(folder, server.url.removeprefix("http://")) as send:
        yield User(send, server)


def test_the_main_jobs(user: User, server: RunningServer, cast: Cast) -> None:
    with SmpplibEsme(server.port) as esme:
        assert esme.bind(cast.smpp_acme_1) == 0
        for text in ("First", "Second", "Third"):
            esme.send_text(text)
    user.log_in(cast.alice)

    for name in ("smpp-acme-2", "sms-acme-1", "smpp-acme-1"):
        user.open("/")
        user.click(row(name))
        user.see(name, "//h1")
    user.click(button("Copy", "//div[dt[contains(., 'SystemID')]]"))
    user.see("Copied", "//div[dt[contains(., 'SystemID')]]")

    user.click(button("Generate a new password"))
    user.click(button("Send", "//dialog"))
    user.see("Your new password", "//dialog")
    user.click(button("Done", "//dialog"))

    user.open(f"{ACCOUNT}/options/smpp")
    day = datetime.now(UTC) + timedelta(days=2)
    user.type_into("Expires", "On")
    user.type_into("Date and time", f"{day:%m/%d/%Y}, 10:45 AM")
    user.expect_wide_date_fields()
    assert user.run("return document.querySelector('#until').value") == f"{day:%Y-%m-%d}T10:45"
    user.type_into("IP address or range", "203.0.113.7")
    user.click(button("Add an IP"))
    user.click(button("", row("203.0.113.7")))
    user.click(button("Delete 203.0.113.7", "//dialog"))
    user.see("203.0.113.7 was removed.")

    user.open(f"{ACCOUNT}/credits")
    user.click(button("Transfer credits"))
    user.type_into("Credits", "40")
    user.see("957 afterwards", "//dialog")
    user.click(button("Transfer", "//dialog"))
    user.see("40 credits moved to")

    for text in ("First", "Third", "Second"):
        user.open(f"{ACCOUNT}/history")
        user.click(row(text))
        user.see(text, "//dialog")
    # No link covers what is beside or below its row.
    user.open(f"{ACCOUNT}/history")
    user.click(row("Second") + "//input")
    user.click(button("Delete the selected ones"))
    user.see("1 stays", "//dialog")

    for page in ("credits", "received", "statistics", "history"):
        user.open(f"{ACCOUNT}/{page}?period=range")
        user.expect_wide_date_fields()
    user.type_into("From", f"{day:%m/%d/%Y}")
    assert user.run("return document.querySelector('#from').value") == f"{day:%Y-%m-%d}"

    # Not on a page of an account, which asks for news, and so finds out by itself, later.
    user.open("/")
    user.click("//summary[contains(., 'Your menu')]")
    user.click(button("Log out"))
    user.wait_for("return location.pathname === '/login'")
    user.go_back()
    user.see("E-mail address")

    user.log_in(cast.olga)
    for path in ("/admin/accounts/smpp-acme-1", "/admin/prices/1/set"):
        user.open(path)
        user.expect_wide_date_fields()
