"""The reader's language: the browser's before the login, the user's own afterwards."""

from collections.abc import Callable

import pytest

from tests.support import Cast, Person
from tests.web.conftest import Browser


def language(browser: Browser, path: str = "/login", accepted: str = "") -> str:
    return browser.get(path, headers={"Accept-Language": accepted}).text.partition('<html lang="')[2][:2]


@pytest.mark.parametrize(
    ("accepted", "shown"),
    [
        ("", "en"),
        ("it", "it"),
        ("it-IT,it;q=0.9,en;q=0.8", "it"),
        ("de-DE,de;q=0.9,it;q=0.8,en;q=0.7", "it"),
        ("en;q=0.5,it;q=0.9", "it"),
        ("de", "en"),
        ("*", "en"),
        (";;,,=", "en"),
    ],
)
def test_before_the_login_it_is_the_browser_s(browser: Browser, accepted: str, shown: str) -> None:
    assert language(browser, accepted=accepted) == shown


def test_it_can_be_chosen_before_the_login(browser: Browser) -> None:
    answer = browser.post("/language", data={"locale": "it", "next": "/login"})
    assert (answer.status_code, answer.location) == (303, "/login")
    assert language(browser, accepted="en") == "it"


def test_it_is_remembered_with_the_user(client: Callable[[Person], Browser], cast: Cast) -> None:
    client(cast.alice).post("/language", data={"locale": "it"})
    assert language(client(cast.alice), "/profile", accepted="en") == "it"
    assert language(client(cast.bob), "/profile", accepted="en") == "en"


def test_the_user_s_own_outweighs_the_browser_s_choice(client: Callable[[Person], Browser], cast: Cast) -> None:
    client(cast.alice).post("/language", data={"locale": "en"})
    browser = client(cast.alice)
    with browser.session_transaction() as session:
        session["language"] = "it"
    assert language(browser, "/profile") == "en"


def test_it_stays_after_the_logout(client: Callable[[Person], Browser], cast: Cast) -> None:
    browser = client(cast.alice)
    browser.post("/language", data={"locale": "it"})
    browser.post("/logout")
    assert language(browser, accepted="en") == "it"


def test_an_unknown_language_changes_nothing(browser: Browser) -> None:
    assert browser.post("/language", data={"locale": "xx"}).status_code == 303
    assert language(browser) == "en"


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", ""])
def test_the_way_back_never_leads_to_another_host(browser: Browser, elsewhere: str) -> None:
    assert browser.post("/language", data={"locale": "it", "next": elsewhere}).location == "/"
