"""What the pages weigh, and that nothing goes wrong on them unseen."""

from collections.abc import Callable

from playwright.sync_api import Browser, Request

from tests.e2e.browsing import Tab
from tests.e2e.gallery import OWNER, Gallery

FIRST_LOAD_BYTES = 60_000
PAGE_BYTES = 15_000


def test_every_page_is_light_and_quiet(browser: Browser, gallery: Gallery) -> None:
    heavy, complaints = {}, []
    with gallery.visits(browser) as visits:
        for visit in visits:
            if len(visit.html) > PAGE_BYTES:
                heavy[visit.address] = len(visit.html)
            complaints += visit.tab.complaints
            visit.tab.complaints.clear()
    assert heavy == {}
    assert complaints == []


def test_the_first_load_is_light(open_tab: Callable[..., Tab], gallery: Gallery) -> None:
    tab = open_tab(gallery.server, storage_state=gallery.cookies[OWNER])
    transferred: list[Request] = []
    tab.page.on("requestfinished", lambda request: transferred.append(request))

    tab.page.goto("/accounts/smpp-acme-1", wait_until="networkidle")

    # As they came over the wire, compressed where the server does that.
    weights = {each.url: each.sizes()["responseBodySize"] for each in transferred}
    assert len(weights) > 4, weights
    assert sum(weights.values()) < FIRST_LOAD_BYTES, weights
