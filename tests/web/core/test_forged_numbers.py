"""Numbers in addresses that no page has written: they find nothing, and are no error of ours."""

from collections.abc import Callable

import pytest

from portal.web.core import paging
from tests.support import Cast, Person
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
ACCOUNT = "/accounts/smpp-acme-1"
FORGED = ("9" * 5000, "9" * 30, str((1 << 63) - 1), "-1", "1e5", "\u00b2", "x")


@pytest.mark.parametrize("number", FORGED)
@pytest.mark.parametrize("page", ["credits", "orders", "history"])
@pytest.mark.parametrize("way", paging.PAGING_ARGS)
def test_a_page_that_is_not_there_is_the_first_one(
    client: Client, cast: Cast, page: str, way: str, number: str
) -> None:
    assert client(cast.alice).get(f"{ACCOUNT}/{page}", query_string={way: number}).status_code == 200


@pytest.mark.parametrize("number", FORGED)
def test_a_pack_that_is_not_there_is_404(client: Client, cast: Cast, number: str) -> None:
    answer = client(cast.alice).get(f"{ACCOUNT}/credits/buy", query_string={"pack": number})
    assert answer.status_code == 404


@pytest.mark.parametrize("month", ["0001-01", "1969-12", "2300-01", "9999-11", "9999-12"])
@pytest.mark.parametrize("page", ["months", "months.csv"])
def test_a_month_that_no_movement_can_be_in_is_404(client: Client, cast: Cast, page: str, month: str) -> None:
    assert client(cast.alice).get(f"{ACCOUNT}/credits/{page}?month={month}").status_code == 404
