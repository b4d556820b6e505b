"""What holds for each page of the portal: how heavy it is, how wide, in which language, and for whom.

Walking through all of them takes most of a minute, so each walk looks at all that can be seen on its way.
"""

import re
from collections.abc import Callable

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, Request, expect

from tests.e2e.browsing import BrowserTab
from tests.e2e.gallery import HALVES, OPERATOR, OWNER, PageGallery
from tests.support import Cast, RunningServer

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
FIRST_LOAD_BYTES = 60_000
PAGE_BYTES = 60_000

# Nothing else of the result leaves the page: what is right is so much that sending it takes as long as finding it.
FIND_VIOLATIONS = """
async () => {
  const { violations } = await axe.run({ resultTypes: ['violations'], preload: false });
  return violations.map(({ id, nodes }) => ({ id, elements: nodes.map(({ html }) => html) }));
}
"""

MISSING_TARGETS = """
() => [...document.querySelectorAll('[hx-target^="#"]')].map((element) => element.getAttribute('hx-target'))
  .filter((target) => !document.querySelector(target))
"""
"""What htmx would replace, and isn't there: then it sends no request."""

HAS_CUT_TABS = "[...document.querySelectorAll('.tabs')].some((tabs) => tabs.scrollWidth > tabs.clientWidth)"

LABELS = {
    "/accounts/smpp-acme-1": [
        "Informazioni generali",
        "Stato dei servizi",
        "SystemID",
        "Windowing",
        "Velocità autorizzata",
        "Genera una nuova password",
        "Opzioni",
        "Mittenti",
        "Crediti",
        "Storico",
    ],
    "/accounts/smpp-acme-1/options/smpp": ["Impostazioni SMPP", "IP autorizzati", "Aggiungi un IP"],
    "/accounts/smpp-acme-1/password": ["Inviare", "Annullare"],
}
"""What the users of the model know these things as."""


@pytest.mark.parametrize("half", HALVES)
def test_each_is_light_and_quiet_and_accessible_in_both_themes(
    browser: Browser, gallery: PageGallery, half: slice
) -> None:
    heavy, complaints, too_wide, violations = {}, [], {}, {}
    # Without motion: colours that are on their way from one theme to the other have no contrast.
    with gallery.visit_pages(browser, half, reduced_motion="reduce") as visits:
        for visit in visits:
            if len(visit.html) > PAGE_BYTES:
                heavy[visit.address] = len(visit.html)
            complaints += visit.tab.browser_errors
            complaints += [f"{visit.address}: no {each}" for each in visit.page.evaluate(MISSING_TARGETS)]
            # axe-core, for both looks at the page. It tries styles that the page's policy forbids, and complains.
            visit.page.evaluate(AXE_SCRIPT)
            look_like(visit.page, DESK, "light")
            violations[f"{visit.address}, light"] = violations_of(visit.page)
            look_like(visit.page, PHONE, "dark")
            violations[f"{visit.address}, dark, on a phone"] = violations_of(visit.page)
            if (width := width_of(visit.page)) > PHONE["width"]:
                too_wide[visit.address] = width
            visit.tab.browser_errors.clear()
    assert heavy == {}
    assert complaints == []
    assert too_wide == {}
    assert {where: what for where, what in violations.items() if what} == {}


def test_each_is_in_the_browsers_language_and_scrolls_in_none_sideways_on_a_phone(
    browser: Browser, gallery: PageGallery
) -> None:
    texts, too_wide, cut = {}, {}, []
    with gallery.visit_pages(browser, locale="it-IT", viewport=PHONE) as visits:
        for visit in visits:
            assert visit.page.locator("html").get_attribute("lang") == "it", visit.address
            texts[visit.viewer, visit.address] = visit.page.locator("body").text_content() or ""
            if (width := width_of(visit.page)) > PHONE["width"]:
                too_wide[visit.address] = width
            if visit.page.evaluate(HAS_CUT_TABS):
                cut.append(visit.address)
    assert too_wide == {}
    assert cut == []
    for address, labels in LABELS.items():
        assert [each for each in labels if each not in texts[OWNER, address]] == [], address
    told = [text for (viewer, _), text in texts.items() if viewer == OPERATOR]
    assert all("“a-carrier-with-a-long-name” non è connesso: nessuna connessione a 127.0.0.1" in each for each in told)
    for pattern in ("In coda", "1 tentativo · ESME_RSYSERR 0x08", r"Upstream\s+a-carrier-with-a-long-name\s+bind 1"):
        assert any(re.search(pattern, each) for each in told), pattern


def test_the_notice_of_the_simulator_is_accessible(
    open_tab: Callable[..., BrowserTab], server: RunningServer, cast: Cast
) -> None:
    # The pages of all tests above are an installation's that has a carrier.
    tab = open_tab(server, reduced_motion="reduce")
    tab.log_in(cast.olga)
    tab.button("Italiano").click()
    # The login from a new browser has left a mail, of which another notice tells.
    notice = tab.page.locator(".notice.info").filter(has_text="Per inviarli a un carrier: Vai agli upstream")
    expect(notice).to_be_visible()
    tab.page.evaluate(AXE_SCRIPT)
    for theme in ("light", "dark"):
        look_like(tab.page, PHONE, theme)
        assert violations_of(tab.page) == []
    assert width_of(tab.page) <= PHONE["width"]
    tab.browser_errors.clear()


def test_the_first_load_is_light(open_tab: Callable[..., BrowserTab], gallery: PageGallery) -> None:
    tab = open_tab(gallery.server, storage_state=gallery.cookies[OWNER])
    transferred: list[Request] = []
    tab.page.on("requestfinished", lambda request: transferred.append(request))

    tab.page.goto("/accounts/smpp-acme-1", wait_until="networkidle")

    # As they came over the wire, compressed where the server does that.
    weights = {each.url: each.sizes()["responseBodySize"] for each in transferred}
    assert len(weights) > 4, weights
    assert sum(weights.values()) < FIRST_LOAD_BYTES, weights


def test_the_theme_follows_the_system_until_one_is_chosen(browser: Browser, gallery: PageGallery) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    with gallery.visit_pages(browser, color_scheme="dark") as visits:
        page = next(visits).page
        dark = page.evaluate(background)
        page.emulate_media(color_scheme="light")
        light = page.evaluate(background)
        assert light != dark

        page.get_by_role("button", name="Theme: as the system").click()
        page.get_by_role("button", name="Theme: light").click()
        assert page.evaluate(background) == dark
        page.reload()
        assert page.evaluate(background) == dark
        page.get_by_role("button", name="Theme: dark").click()
        assert page.evaluate(background) == light


def look_like(page: Page, size: dict[str, int], theme: str) -> None:
    page.set_viewport_size(size)  # type: ignore[arg-type]
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]


def width_of(page: Page) -> int:
    return int(page.evaluate("document.scrollingElement.scrollWidth"))


def violations_of(page: Page) -> list[str]:
    """Each as its rule and the elements that it is about."""
    return [f"{each['id']}: {each['elements']}" for each in page.evaluate(FIND_VIOLATIONS)]
