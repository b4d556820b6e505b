"""What is shown when something can't be."""

from collections.abc import Callable

import pytest

from portal.core import db
from tests.support import Cast
from tests.web.conftest import Browser


def test_an_unknown_address_is_answered_in_words(browser: Browser) -> None:
    answer = browser.get("/no-such-page")
    assert answer.status_code == 404
    assert "There is no such page" in answer.text
    assert 'href="/"' in answer.text


@pytest.mark.parametrize("number", [1 << 63, 10**30, "9" * 5000])
def test_a_number_beyond_all_ids_is_nobodys_address(
    client: Callable[..., Browser], cast: Cast, number: int | str
) -> None:
    answer = client(cast.alice).get(f"/accounts/{cast.smpp_acme_1.name}/history/{number}")
    assert answer.status_code == 404


def test_it_speaks_the_browsers_language(browser: Browser) -> None:
    answer = browser.get("/no-such-page", headers={"Accept-Language": "it-IT,it;q=0.9,en;q=0.5"})
    assert '<html lang="it">' in answer.text


def test_htmx_gets_words_and_no_page(browser: Browser) -> None:
    answer = browser.get("/no-such-page", htmx=True)
    assert answer.status_code == 404
    assert answer.mimetype == "text/plain"
    assert "There is no such page" in answer.text


def test_a_wrong_method_is_no_page_either(client: Callable[..., Browser], cast: Cast) -> None:
    answer = client(cast.alice).put("/")
    assert answer.status_code == 405
    assert "There is no such page" in answer.text


def test_a_form_without_its_token_is_refused(client: Callable[..., Browser], cast: Cast) -> None:
    answer = client(cast.alice).post("/language", data={"locale": "it"}, csrf=False)
    assert answer.status_code == 400
    assert "out of date" in answer.text


def test_too_large_a_form_is_refused(browser: Browser) -> None:
    answer = browser.post("/language", data={"locale": "x" * (1 << 20)})
    assert answer.status_code == 413
    assert "larger than anything" in answer.text


def test_a_number_longer_than_numbers_are_is_no_page(client: Callable[..., Browser], cast: Cast) -> None:
    assert client(cast.alice).get("/accounts/smpp-acme-1/history/" + "9" * 5000).status_code == 404


def test_a_host_that_is_no_name_is_refused(browser: Browser) -> None:
    answer = browser.get("/", headers={"Host": "x" * 300})
    assert (answer.status_code, answer.mimetype) == (400, "text/plain")


def test_htmx_on_a_page_without_an_address_is_led_to_the_login(browser: Browser) -> None:
    answer = browser.get("/profile", htmx=True, headers={"HX-Current-URL": "http://["})
    assert answer.headers["HX-Redirect"] == "/login"


def test_a_database_that_can_not_be_read_is_told_without_its_words(
    client: Callable[..., Browser], cast: Cast, conn: db.Connection
) -> None:
    alice = client(cast.alice)
    conn.execute("ALTER TABLE accounts RENAME TO elsewhere")
    answer = alice.get(f"/accounts/{cast.smpp_acme_1.name}")
    assert answer.status_code == 503
    assert "The portal is busy" in answer.text
    assert "no such table" not in answer.text
