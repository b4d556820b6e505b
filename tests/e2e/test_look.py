"""On a phone, in both themes, in both languages."""

from playwright.sync_api import Browser

from tests.e2e.gallery import Gallery

PHONE = {"width": 360, "height": 740}

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


def test_nothing_scrolls_sideways_on_a_phone(browser: Browser, gallery: Gallery) -> None:
    too_wide = {}
    with gallery.visits(browser, viewport=PHONE) as visits:
        for visit in visits:
            width = visit.page.evaluate("document.scrollingElement.scrollWidth")
            if width > PHONE["width"]:
                too_wide[visit.address] = width
    assert too_wide == {}


def test_the_theme_follows_the_system_until_one_is_chosen(browser: Browser, gallery: Gallery) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    with gallery.visits(browser, color_scheme="dark") as visits:
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


def test_every_page_is_in_the_browsers_language(browser: Browser, gallery: Gallery) -> None:
    texts = {}
    with gallery.visits(browser, locale="it-IT") as visits:
        for visit in visits:
            assert visit.page.locator("html").get_attribute("lang") == "it", visit.address
            texts[visit.address] = visit.page.locator("body").text_content() or ""
    for address, labels in LABELS.items():
        assert [each for each in labels if each not in texts[address]] == [], address
