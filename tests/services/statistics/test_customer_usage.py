"""What customers have used in a month, and how months are written."""

import pytest

from portal.services.people import customers
from portal.services.statistics import customer_usage, months, rollup
from portal.services.statistics.months import InvalidMonth
from tests.services.submitting import store_messages
from tests.support import prepare_submit

NOVEMBER = 2026 * 12 + 10
# The first millisecond of November 2026 (UTC).
FIRST_OF_NOVEMBER = 1_793_491_200_000


def test_what_customers_have_used_is_by_account_and_country(conn, acme_1, globex_1):
    for account in (globex_1, acme_1):
        (sender,) = conn.execute("SELECT address FROM senders WHERE account_id = ?", (account.id,)).fetchone()
        store_messages(conn, [prepare_submit(conn, account.id, source=sender)] * 2, now=FIRST_OF_NOVEMBER)
    rollup.roll_up_all(conn)
    used = [*customer_usage.iterate_customer_usage(conn, NOVEMBER)]
    names = [customers.get_customer_by_id(conn, each.customer_id).name for each in (acme_1, globex_1)]
    assert [(each.customer, each.account, each.month, each.country, each.messages) for each in used] == [
        (names[0], acme_1.name, "2026-11", "IT", 2),
        (names[1], globex_1.name, "2026-11", "IT", 2),
    ]
    (price,) = conn.execute("SELECT sum(price) FROM messages").fetchone()
    assert sum(each.credits for each in used) == price
    assert [*customer_usage.iterate_customer_usage(conn, NOVEMBER - 1)] == []


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-1", "2026-13", "2026-00", "26-11", "2026-11-01", "2026-\u0661\u0661"]
)
def test_what_is_no_month_is_refused(text):
    with pytest.raises(InvalidMonth):
        months.parse_month(text)


def test_a_month_is_read_as_it_is_written():
    assert months.format_month(months.parse_month(" 2026-11 ")) == "2026-11"
