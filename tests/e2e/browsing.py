"""A browser tab with the actions of a user, which also collects errors that nobody would see."""

import re
from contextlib import closing
from urllib.parse import urlsplit

from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect

from portal.core.crypto import Keys
from portal.services.people import authentication, users
from tests.support import Person, RunningServer

# Chromium reports each answer from 400 on as an error, also those that are meant: a refused form, somebody else's page.
_EXPECTED_ERRORS = re.compile(r"Failed to load resource: the server responded with a status of 4(01|03|04|22|29) ")


def portal_url(server: RunningServer) -> str:
    """The portal as a host of its own on plain http; the browser is started so that the name leads to loopback."""
    return f"http://portal.test:{urlsplit(server.url).port}"


def sign_session_cookie(server: RunningServer, token: str) -> str:
    """The cookie of a browser in which the login session with this token goes on."""
    app = Flask(__name__, static_folder=None)
    app.secret_key = Keys.load(server.data).cookie_key
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    return str(serializer.dumps({"_user_id": token, "_fresh": True}))


class BrowserTab:
    """One open page.

    `complaints` collects what nobody would see: errors and warnings on the console (a violated Content-Security-Policy
    is one), exceptions, and requests to other hosts.
    """

    def __init__(self, page: Page, server: RunningServer) -> None:
        self.page = page
        self.server = server
        self.browser_errors: list[str] = []
        page.on("console", self._on_console_message)
        page.on("pageerror", lambda error: self.browser_errors.append(f"{page.url}: {error}"))
        page.on("request", self._on_request)

    def _on_console_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _EXPECTED_ERRORS.match(message.text):
            self.browser_errors.append(f"{self.page.url}: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((portal_url(self.server), "data:")):
            self.browser_errors.append(f"{self.page.url} asked for {request.url}")

    # --- doing

    def open_as(self, person: Person, path: str = "/") -> None:
        """Open a page as somebody who has logged in. For tests that aren't about the login: it takes three pages."""
        with closing(self.server.connect()) as conn:
            user = users.get_user_by_email(conn, person.email)
            token = authentication.start_login_session(conn, user, "127.0.0.1", "a test")
        cookie = sign_session_cookie(self.server, token)
        self.page.context.add_cookies([{"name": "portal_session", "value": cookie, "url": portal_url(self.server)}])
        self.page.goto(path)

    def log_in(self, person: Person, step: int = 0) -> None:
        """Through both steps. A code is good once: a second login of the same person takes `step=1`."""
        self.submit_password(person)
        self.page.get_by_label("Code", exact=True).fill(person.totp_code(step))
        self.button("Log in").click()
        self.page.wait_for_url(lambda url: "/login" not in url)

    def submit_password(self, person: Person) -> None:
        """The first step of the login alone."""
        self.page.goto("/login")
        self.page.get_by_label("E-mail address").fill(person.email)
        self.page.get_by_label("Password").fill(person.password)
        self.button("Log in").click()
        self.page.wait_for_url("**/login/totp*")

    def start_authenticator_change(self, person: Person) -> None:
        """Begin to, from the profile; nothing changes until a code of the new one is given."""
        self.page.goto("/profile")
        form = self.page.locator("form[action$='/profile/authenticator']")
        form.get_by_label("Current password").fill(person.password)
        form.get_by_role("button").click()
        self.page.wait_for_url("**/profile/authenticator")

    def button(self, name: str) -> Locator:
        """A button, or a link that looks like one, by its exact words."""
        page = self.page
        return page.get_by_role("button", name=name, exact=True).or_(page.get_by_role("link", name=name, exact=True))

    @property
    def dialog(self) -> Locator:
        """The open dialog."""
        return self.page.locator("dialog[open]")

    def tile(self, title: str) -> Locator:
        """A tile by its heading."""
        return self.page.get_by_role("region", name=title)

    def read_clipboard(self, label: str) -> str:
        """What Ctrl+V brings, read back through a field of the page, which is emptied again."""
        field = self.page.get_by_label(label)
        field.focus()
        field.press("Control+V")
        pasted = field.input_value()
        field.fill("")
        return pasted

    # --- seeing

    def expect_text(self, text: str) -> None:
        """Wait until a text is in sight."""
        expect(self.page.get_by_text(text).locator("visible=true").first).to_be_visible()

    def expect_toast(self, text: str) -> None:
        """Wait for a toast."""
        expect(self.page.locator(".toast", has_text=text)).to_be_visible()

    def expect_account_status(self, label: str) -> None:
        """Wait until an account's header says this state."""
        expect(self.page.locator("#account-status")).to_have_text(label)
