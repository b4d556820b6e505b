"""The operator adds users to a customer, and gives them new links to enrol with."""

import re
from collections.abc import Callable

import pytest

from portal.core import db
from portal.services.people import users
from tests.support import Cast, Person
from tests.web.conftest import Browser


def shown_link(text: str) -> str:
    found = re.search(r"<code>http://127\.0\.0\.1:\d+(/enrol/[\w-]+)</code>", text)
    assert found
    return found[1]


@pytest.mark.parametrize("role", [users.OWNER, users.MANAGER, users.VIEWER])
def test_a_user_is_added_with_a_link_that_is_shown_once(
    olga: Browser, browser: Browser, cast: Cast, conn: db.Connection, role: str
) -> None:
    page = f"/admin/customers/{cast.acme}"
    answer = olga.post(page + "/users", data={"user-email": "carol@acme.example", "user-role": role})
    assert answer.status_code == 200
    link = shown_link(answer.text)
    assert browser.get(link).status_code == 200
    assert users.get_user_by_email(conn, "carol@acme.example").role == role
    again = olga.get(page).text
    assert "not enrolled yet" in again
    assert "/enrol/" not in again


@pytest.mark.parametrize(
    ("email", "role", "sentence"),
    [
        ("alice@acme.example", "owner", "There is already a user “alice@acme.example”."),
        ("carol", "owner", "“carol” isn&#39;t an e-mail address."),
        ("carol@acme.example", "operator", "A customer&#39;s user is owner, manager or viewer"),
        ("carol@acme.example", "", "A customer&#39;s user is owner, manager or viewer"),
    ],
)
def test_a_refused_user_keeps_what_was_typed(olga: Browser, cast: Cast, email: str, role: str, sentence: str) -> None:
    answer = olga.post(f"/admin/customers/{cast.acme}/users", data={"user-email": email, "user-role": role})
    assert answer.status_code == 422
    assert sentence in answer.text
    assert f'value="{email}"' in answer.text


@pytest.mark.slow
def test_a_new_link_is_asked_about_first(olga: Browser, cast: Cast, client: Callable[[Person], Browser]) -> None:
    alice = client(cast.alice)
    path = f"/admin/users/{cast.alice.id}/link"
    page, part = olga.get(path), olga.get(path, htmx="dialog")
    assert "will be logged out everywhere" in page.text
    assert part.text.lstrip().startswith('<form class="confirm"')
    assert alice.get("/profile").status_code == 200


@pytest.mark.slow
def test_a_new_link_starts_the_login_over(
    olga: Browser, browser: Browser, cast: Cast, client: Callable[[Person], Browser], conn: db.Connection
) -> None:
    alice = client(cast.alice)
    answer = olga.post(f"/admin/users/{cast.alice.id}/link", htmx="dialog")
    assert answer.text.lstrip().startswith('<div class="confirm"')
    enrolment = browser.get(shown_link(answer.text))
    assert enrolment.status_code == 200
    assert cast.alice.totp_secret not in enrolment.text
    assert alice.get("/profile").status_code == 302
    credentials = {"email": cast.alice.email, "password": cast.alice.password}
    assert browser.post("/login", data=credentials).status_code == 401
