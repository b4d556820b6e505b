"""What a text would cost: the same as a submit."""

from collections.abc import Callable

import pytest

from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.core.gsm0338 import Encoding
from portal.services.accounts.accounts import Account
from portal.services.brakes import brakes
from portal.services.brakes.brakes import Brakes
from portal.services.common.audit import SHELL
from portal.services.messages import estimates, intake
from portal.services.messages.blacklist import NoNumbers, TooManyNumbers
from portal.services.messages.estimates import CostEstimate, InvalidRecipient, MessageTooLong, NoPriceForDestination
from portal.services.people import customers
from portal.services.prices import price_lists, prices
from portal.services.prices.prices import PriceChange
from tests.support import prepare_submit

ITALIAN, FRENCH, SPANISH = "+39 340 123 4567", "+33 6 12.34.56.78", "34612345678"


@pytest.fixture
def estimate(conn: Connection, acme_1: Account) -> Callable[..., CostEstimate]:
    return lambda text="hello", numbers=ITALIAN: estimates.estimate_cost(conn, acme_1, text, numbers)


@pytest.mark.parametrize(
    ("text", "encoding", "length", "capacity", "parts"),
    [
        ("", Encoding.GSM, 0, 160, 1),
        ("hello", Encoding.GSM, 5, 160, 1),
        ("a" * 160, Encoding.GSM, 160, 160, 1),
        ("a" * 161, Encoding.GSM, 161, 306, 2),
        ("€" * 80, Encoding.GSM, 160, 160, 1),
        ("a\r\nb", Encoding.GSM, 3, 160, 1),
        ("è" * 70, Encoding.GSM, 70, 160, 1),
        ("ê" * 70, Encoding.UCS2, 70, 70, 1),
        ("ê" * 71, Encoding.UCS2, 71, 134, 2),
        ("📦" * 35, Encoding.UCS2, 70, 70, 1),
        ("📦" * 36, Encoding.UCS2, 72, 134, 2),
    ],
)
def test_what_a_text_is_on_the_way(estimate, text, encoding, length, capacity, parts):
    estimated = estimate(text)
    assert (estimated.encoding, estimated.length) == (encoding, length)
    assert (estimated.capacity, estimated.parts) == (capacity, parts)
    assert estimated.total_price == 1000 * parts


def test_the_characters_that_make_it_longer_are_named(estimate):
    assert estimate("Caffè – perché “no” – 📦").non_gsm_characters == "–“”📦"
    assert estimate("Caffè, perché no: 5 €").non_gsm_characters == ""


def test_each_number_has_its_price(conn, cast, acme_1, estimate):
    volume = price_lists.create_price_list(conn, SHELL, "Volume")
    prices.change_prices(
        conn, SHELL, volume.id, [PriceChange("IT", 700), PriceChange("39341", 5), PriceChange("ES", None)], "UTC"
    )
    price_lists.assign_price_list(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), volume.id)
    estimated = estimate("a" * 200, f"{ITALIAN}\r\n\r\n 393411234567 \n{FRENCH}\n{SPANISH}\n0039340\n")
    assert [(each.number, each.country, each.part_price, each.price) for each in estimated.costs] == [
        ("+393401234567", "IT", 700, 1400),
        ("+393411234567", "IT", 5, 10),
        ("+33612345678", "FR", 500, 1000),
        (SPANISH, "ES", 0, 0),
        ("0039340", None, 0, 0),
    ]
    assert [type(each.refusal) for each in estimated.costs[3:]] == [NoPriceForDestination, InvalidRecipient]
    assert str(estimated.costs[3].refusal) == "Nothing is sent to 34612345678 (Spain): there is no price for it."
    assert [each.refusal for each in estimated.costs[:3]] == [None] * 3
    assert (estimated.total_price, estimated.balance, estimated.balance_after) == (2410, 1_000_000, 997_590)


@pytest.mark.parametrize("text", ["hello", "a" * 161, "€" * 81, "ê" * 71, "📦" * 200, "x" * 5000])
def test_it_is_what_a_submit_costs(conn, acme_1, estimate, text):
    estimated = estimate(text, "+447700900123")
    body = (
        text.encode("utf-16-be")
        if estimated.encoding
        else b"".join(b"\x1be" if each == "€" else each.encode() for each in text)
    )
    submit = prepare_submit(conn, acme_1.id, body, destination="447700900123", data_coding=estimated.encoding)
    (message_id,) = intake.store_messages(conn, [submit], now=now_ms()).message_ids
    row = conn.execute("SELECT parts, price FROM messages WHERE id = ?", (message_id,)).fetchone()
    assert tuple(row) == (estimated.parts, estimated.total_price)


def test_more_than_there_is(estimate):
    assert estimate("a" * 160, "\n".join([ITALIAN] * 100)).balance_after == 900_000
    assert estimate("a" * 153 * 11, "\n".join([ITALIAN] * 100)).balance_after == -100_000


@pytest.mark.parametrize(
    ("text", "numbers", "refusal"),
    [
        ("hello", "", NoNumbers),
        ("hello", " \r\n ", NoNumbers),
        ("hello", f"{ITALIAN}\n" * 101, TooManyNumbers),
        ("a" * (153 * 255 + 1), ITALIAN, MessageTooLong),
        ("ê" * (67 * 255 + 1), ITALIAN, MessageTooLong),
        ("a" * 1_000_000, ITALIAN, MessageTooLong),
    ],
)
def test_it_has_bounds(estimate, text, numbers, refusal):
    with pytest.raises(refusal):
        estimate(text, numbers)


def test_the_longest_text_is_estimated(estimate):
    assert estimate("a" * 153 * 255).parts == 255


def test_asking_costs_nothing(conn, estimate):
    before = "\n".join(conn.iterdump())
    estimate()
    assert "\n".join(conn.iterdump()) == before


def test_a_country_that_the_account_does_not_send_to_has_no_price(conn, acme_1, estimate):
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(frozenset(("FR",))))
    italian, french = estimate(numbers=f"{ITALIAN}\n{FRENCH}").costs
    assert (italian.price, french.price) == (0, 500)
    assert str(italian.refusal) == (
        "This account sends no messages to Italy: whoever has set its countries can add this one."
    )
