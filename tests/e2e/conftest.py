"""A real Chromium, and the whole program with something on each of its pages."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from portal.core import config as settings
from tests.e2e.browsing import BrowserTab, portal_url
from tests.e2e.gallery import PageGallery, create_gallery
from tests.mailbox import Mailbox
from tests.serving import run_server
from tests.support import DEADLINE_S, Cast, RunningServer, copy_data_folder

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    # Every test sees the portal as http://portal.test. To browsers 127.0.0.1 is as good as https; this isn't, and so
    # what they keep from pages over plain http (navigator.clipboard) is missing, as it is for most who try it.
    "--host-resolver-rules=MAP portal.test 127.0.0.1",
]


# Of the package and not of the session: while it runs, nothing else in the process can have an event loop.
@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Chromium; each test opens contexts of its own in it.

    Without windows and all around them: that takes a quarter of the time. Tests of the keyboard have the whole one.
    """
    running = playwright.chromium.launch(executable_path="/usr/bin/chromium-headless-shell", args=CHROMIUM_ARGUMENTS)
    yield running
    running.close()


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Callable[..., BrowserTab]]:
    """Opens tabs on a server, each in a context of its own; `options` are Playwright's.

    At the end of the test nothing may have gone wrong unseen in any of them, see `Tab`.
    """
    with ExitStack() as contexts:
        opened: list[BrowserTab] = []

        def open_new_tab(server: RunningServer, **options: Any) -> BrowserTab:
            usual: dict[str, Any] = {"base_url": portal_url(server), "locale": "en-GB"}
            context = browser.new_context(**usual | options)
            context.set_default_timeout(DEADLINE_S * 1000)
            contexts.callback(context.close)
            opened.append(BrowserTab(context.new_page(), server))
            return opened[-1]

        yield open_new_tab
        complaints = [each for tab in opened for each in tab.browser_errors]
        assert complaints == []


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """A real SMTP server, which keeps what it is sent."""
    with Mailbox().listening() as listening:
        yield listening


@pytest.fixture(scope="package")
def gallery(
    template: tuple[Path, Cast], tmp_path_factory: pytest.TempPathFactory, browser: Browser
) -> Iterator[PageGallery]:
    """A server that no test changes, with something on each page, and everyone logged in."""
    data = copy_data_folder(template[0], tmp_path_factory.mktemp("gallery") / "data")
    config = settings.load_config(data=data, env={})
    with run_server(config) as server:
        yield create_gallery(browser, server, config, template[1])
