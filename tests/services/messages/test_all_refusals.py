"""What was refused of all accounts: which of them are listed, and in which order."""

import pytest

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.db import Connection
from portal.services.accounts import refused_binds
from portal.services.accounts.refused_binds import WRONG_PASSWORD, RefusedBind
from portal.services.messages import all_refusals
from portal.services.messages.all_refusals import RefusalFilter
from tests.support import Cast, record_refused_messages


@pytest.mark.parametrize("words", ["", "smpp-"])
def test_the_latest_come_first_whether_the_period_is_over_or_not(conn: Connection, cast: Cast, words: str) -> None:
    now = now_ms()
    acme_1, acme_2, globex_1 = cast.smpp_acme_1.id, cast.smpp_acme_2.id, cast.smpp_globex_1.id
    record_refused_messages(conn, acme_1, {("sender", "NOTMINE"): 900}, now - 3 * HOUR_MS)
    record_refused_messages(conn, acme_2, {("length", ""): 1}, now - 2 * HOUR_MS)
    refused_binds.record_refused_binds(conn, [RefusedBind(acme_2, "203.0.113.7", WRONG_PASSWORD, now)])
    record_refused_messages(conn, globex_1, {("time", ""): 1}, now - 40 * HOUR_MS)

    def list_ids(since: int, until: int, words: str = words) -> tuple[list[int], int]:
        wanted = RefusalFilter(since, until, words=words)
        accounts, count = all_refusals.list_refused_accounts(conn, wanted, by_time=True, limit=2)
        return [each.id for each in accounts], count

    assert list_ids(now - DAY_MS, now + DAY_MS) == list_ids(now - DAY_MS, now) == ([acme_2, acme_1], 2)
    assert list_ids(now - 3 * DAY_MS, now + DAY_MS) == ([acme_2, acme_1], 3)
    assert list_ids(now - 3 * DAY_MS, now - DAY_MS) == ([globex_1], 1)
    assert list_ids(now - 3 * DAY_MS, now + DAY_MS, "GLOBEX") == ([globex_1], 1)
