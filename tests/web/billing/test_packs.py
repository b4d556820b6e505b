"""The operator sets the packs that are sold."""

import html
import re
from typing import Any

import pytest

from portal.core import db
from portal.services.billing import packs
from portal.services.billing.packs import Pack
from tests.web import acting
from tests.web.acting import get_field_value
from tests.web.billing.ordering import audited, words
from tests.web.conftest import Browser


def rows(*pairs: tuple[str, str], currency: str = "EUR") -> dict[str, Any]:
    return {"currency": currency, "credits": [size for size, _ in pairs], "price": [price for _, price in pairs]}


def test_the_form_holds_the_packs_that_are_sold(olga: Browser, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET recredit_pack = 100000, recredit_below = 1 WHERE name = 'smpp-acme-1'")
    page = olga.get("/admin/packs").text
    assert get_field_value(page, "currency") == "EUR"
    assert re.findall(r'name="credits" value="([^"]*)"', page) == [
        "100", "200", "250", "500", "1,000", "5,000", "10,000", "", "", "",
    ]  # fmt: skip
    assert "€0.07 1 account" in words(page)
    # Sent as it is, it changes nothing.
    typed = {name: re.findall(rf'name="{name}" value="([^"]*)"', page) for name in ("credits", "price")}
    before = packs.list_packs(conn)
    assert olga.post("/admin/packs", data={"currency": "EUR"} | typed).status_code == 303
    assert packs.list_packs(conn) == before
    assert audited(conn, "packs.change") == []


def test_packs_are_added_changed_and_removed(olga: Browser, conn: db.Connection) -> None:
    data = rows(("1,000", "60"), ("", ""), ("0.5", "0.04"), currency=" usd ")
    answer = olga.post("/admin/packs", data=data)
    assert answer.location == "/admin/packs"
    assert packs.list_packs(conn) == [Pack(500, 4, "USD"), Pack(1_000_000, 6000, "USD")]
    assert "US$0.06" in olga.get("/admin/packs").text
    (change,) = audited(conn, "packs.change")
    assert (change["after"], len(change["before"])) == ([[500, 4, "USD"], [1_000_000, 6000, "USD"]], 7)


def test_italian_amounts_are_read_in_italian(olga: Browser, conn: db.Connection) -> None:
    olga.post("/language", data={"locale": "it"})
    assert olga.post("/admin/packs", data=rows(("1.000,5", "1.234,50"))).status_code == 303
    assert packs.list_packs(conn) == [Pack(1_000_500, 123_450, "EUR")]
    page = olga.get("/admin/packs").text
    assert 'value="1.000,5"' in page
    assert 'value="1234,50"' in page


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            rows(("100", "7"), ("200", "14")),
            "A credit in the pack of 200 would cost €0.07, and €0.07 in the pack of 100:"
            " a larger pack has to make credits cheaper.",
        ),
        (rows(("200", "15"), ("100", "7")), "in the pack of 200 would cost €0.075"),
        (rows(("100", "7"), ("100", "6")), "There is a second pack of 100 credits."),
        (rows(("100", "0")), "“0” isn't a price in EUR. Example: 7.00."),
        (rows(("100", "-7")), "“-7” isn't a price"),
        (rows(("100", "7.005")), "“7.005” isn't a price"),
        (rows(("100", "7.5"), currency="JPY"), "“7.5” isn't a price in JPY. Example: 7."),
        (rows(("100", "")), "“” isn't a price"),
        (rows(("100", "1e99")), "isn't a price"),
        (rows(("", "7")), "“” isn't an amount of credits."),
        (rows(("many", "7")), "“many” isn't an amount of credits."),
        (rows(("100", "7"), currency="EURO"), "“EURO” isn't a currency."),
        (rows(("100", "7"), currency="ITL"), "“ITL” isn't a currency."),
        (rows(("100", "7"), currency=""), "“” isn't a currency."),
        (rows(("100", acting.SCRIPT_INJECTION)), "isn't a price"),
        (rows(*((str(each), str(each)) for each in range(1, 60))), "There can be 50 packs at most."),
    ],
)
def test_packs_that_can_t_be_sold_are_refused_with_what_was_typed(
    olga: Browser, conn: db.Connection, typed: dict[str, Any], sentence: str
) -> None:
    before = packs.list_packs(conn)
    answer = olga.post("/admin/packs", data=typed)
    assert (answer.status_code, sentence in words(answer.text)) == (422, True), words(answer.text)
    assert packs.list_packs(conn) == before
    for price in typed["price"][:50]:
        assert f'value="{html.escape(price).replace("&quot;", "&#34;")}"' in answer.text
