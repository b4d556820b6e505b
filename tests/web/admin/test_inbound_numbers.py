"""The numbers that reach an account: the operator gives them, its people see them."""

from collections.abc import Callable

import pytest

from portal.core import db
from portal.services.common.audit import SHELL
from portal.services.messages import inbound_numbers
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

NUMBERS = "/admin/accounts/smpp-acme-1/numbers"


@pytest.fixture
def numbers(conn: db.Connection) -> Callable[[], list[str]]:
    return lambda: [
        str(each) for each in inbound_numbers.list_inbound_numbers(conn, acting.get_account(conn, "smpp-acme-1").id)
    ]


@pytest.mark.parametrize("htmx", [False, "numbers"])
def test_a_number_is_added(olga: Browser, numbers: Callable[[], list[str]], htmx: bool | str) -> None:
    answer = olga.post(NUMBERS, data={"number": "48484", "keyword": "Acme"}, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    page_text = extract_text(answer.text if htmx else olga.get(answer.location).text)
    assert "What is sent to 48484 ACME reaches smpp-acme-1." in page_text
    assert numbers() == ["48484 ACME"]


@pytest.mark.parametrize("htmx", [False, "numbers"])
@pytest.mark.parametrize(
    ("form", "field", "sentence"),
    [
        ({"number": "12"}, "number", "“12” can't be a number that messages are sent to"),
        ({"number": "48484", "keyword": "two words"}, "keyword", "A keyword is one word of at most 20"),
        ({"number": "48484", "keyword": "arrêt"}, "keyword", "“arrêt” can't be a keyword"),
        ({"number": "4711"}, "number", "What is sent to 4711 reaches smpp-globex-1 already."),
    ],
)
def test_a_number_that_can_t_be_added_is_refused_at_its_field(
    olga: Browser,
    conn: db.Connection,
    numbers: Callable[[], list[str]],
    form: dict[str, str],
    field: str,
    sentence: str,
    htmx: bool | str,
) -> None:
    inbound_numbers.add_inbound_number(conn, SHELL, acting.get_account(conn, "smpp-globex-1"), "4711")
    answer = olga.post(NUMBERS, data=form, htmx=htmx)
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert sentence in extract_text(answer.text)
    assert get_field_value(answer.text, "number") == form["number"]
    assert numbers() == []


@pytest.mark.parametrize("htmx", [False, "numbers"])
def test_a_number_is_taken_away_after_a_question(
    olga: Browser,
    conn: db.Connection,
    numbers: Callable[[], list[str]],
    htmx: bool | str,
) -> None:
    route = inbound_numbers.add_inbound_number(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), "48484", "acme")
    address = f"/admin/numbers/{route.id}/delete"
    assert address in olga.get("/admin/accounts/smpp-acme-1").text
    dialog = extract_text(olga.get(address, htmx=htmx).text)
    assert "What is sent to 48484 ACME reaches smpp-acme-1 no more." in dialog
    assert numbers() == ["48484 ACME"]
    answer = olga.post(address, data={}, htmx=htmx)
    assert "48484 ACME was removed." in extract_text(answer.text if htmx else olga.get(answer.location).text)
    assert numbers() == []


def test_a_number_that_is_gone_is_not_there(olga: Browser) -> None:
    assert olga.get("/admin/numbers/1/delete").status_code == 404
    assert olga.post("/admin/numbers/1/delete", data={}).status_code == 404


@pytest.mark.slow
def test_the_account_s_people_see_them_and_change_nothing(
    client: Callable[[Person], Browser], conn: db.Connection, cast: Cast
) -> None:
    for person in (cast.alice, cast.bob):
        assert "Numbers that reach you" not in client(person).get("/accounts/smpp-acme-1/senders").text
    inbound_numbers.add_inbound_number(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), "48484", "acme")
    inbound_numbers.add_inbound_number(conn, SHELL, acting.get_account(conn, "smpp-globex-1"), "48484", "globex")
    for person in (cast.alice, cast.bob):
        page = client(person).get("/accounts/smpp-acme-1/senders").text
        assert "Numbers that reach you" in extract_text(page)
        assert "48484 ACME" in extract_text(page)
        assert "GLOBEX" not in page
        assert "/numbers" not in page
