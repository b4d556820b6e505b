"""axe-core finds nothing on any page: in either theme, on a desk and on a phone."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.e2e.gallery import Gallery

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}


def test_no_page_has_a_violation(browser: Browser, gallery: Gallery) -> None:
    found: dict[str, list[str]] = {}
    # Without motion: colours that are on their way from one theme to the other have no contrast.
    with gallery.visits(browser, reduced_motion="reduce") as visits:
        for visit in visits:
            visit.page.set_viewport_size(DESK)
            visit.page.emulate_media(color_scheme="light")
            found[f"{visit.address}, light"] = violations(visit.page)
            visit.page.set_viewport_size(PHONE)
            visit.page.emulate_media(color_scheme="dark")
            found[f"{visit.address}, dark, on a phone"] = violations(visit.page)
    assert {where: what for where, what in found.items() if what} == {}


def violations(page: Page) -> list[str]:
    """Each as its rule and the elements that it is about."""
    response = Axe().run(page, options={"resultTypes": ["violations"]}).response
    return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in response["violations"]]
