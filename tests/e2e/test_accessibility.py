"""axe-core finds nothing on any page, in either theme, nor on a phone."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.e2e.gallery import Gallery

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}


def test_no_page_has_a_violation(browser: Browser, gallery: Gallery) -> None:
    found: dict[str, list[str]] = {}
    with gallery.visits(browser, viewport=DESKTOP, reduced_motion="reduce") as visits:
        for visit in visits:
            for theme in ("light", "dark"):
                visit.page.emulate_media(color_scheme=theme)
                found[f"{visit.address} {theme}"] = _violations(visit.page)
            visit.page.set_viewport_size(PHONE)
            found[f"{visit.address} phone"] = _violations(visit.page)
            visit.page.set_viewport_size(DESKTOP)
    assert {where: violations for where, violations in found.items() if violations} == {}


def _violations(page: Page) -> list[str]:
    """Each as its rule and the elements that it is about."""
    results = Axe().run(page, options={"resultTypes": ["violations"]})
    return [
        f"{each['id']}: {', '.join(node['html'] for node in each['nodes'])}" for each in results.response["violations"]
    ]
