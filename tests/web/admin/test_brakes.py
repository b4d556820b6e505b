"""The operators' page of brakes: what new accounts get, and unusual traffic of all accounts."""

from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.brakes import brakes, unusual_traffic
from portal.services.brakes.brakes import ALERT, Brakes
from portal.services.brakes.unusual_traffic import CONSECUTIVE_NUMBERS, EXPENSIVE_COUNTRY, Finding
from portal.services.common.audit import SHELL
from tests.support import Cast
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

PAGE = "/admin/brakes"


def fill(page: str, **values: str) -> dict[str, str]:
    fields = {"countries": "", "day_messages": "", "day_credits": "", "hour_messages": "", "unusual": ALERT}
    return fields | {"seen": get_field_value(page, "seen")} | values


def test_what_new_accounts_get_is_set_and_not_overwritten(olga: Browser, conn: Connection) -> None:
    page = olga.get(PAGE).text
    assert olga.post(PAGE, data=fill(page, countries="it", day_messages="50")).location == PAGE
    assert brakes.get_default_brakes(conn) == Brakes(frozenset(("IT",)), 50)
    # The page was open in another tab.
    answer = olga.post(PAGE, data=fill(page, day_messages="60"), htmx=True)
    assert answer.status_code == 422
    assert "Somebody else has changed the brakes meanwhile." in answer.text
    assert get_field_value(answer.text, "day_messages") == "60"
    answer = olga.post(PAGE, data=fill(answer.text, countries="XX"), htmx=True)
    assert "“XX” is no country." in answer.text
    assert brakes.get_default_brakes(conn).day_messages == 50


def test_unusual_traffic_of_all_accounts(olga: Browser, conn: Connection, cast: Cast, keys: Keys) -> None:
    assert "Nothing unusual" in olga.get(PAGE).text
    for account, found in (
        (cast.smpp_acme_1, Finding(CONSECUTIVE_NUMBERS, "", {"numbers": 77, "of": 100})),
        (cast.smpp_globex_1, Finding(EXPENSIVE_COUNTRY, "CU", {"price": 4500, "days": 90})),
    ):
        unusual_traffic.record_event(conn, keys, account.id, found, now_ms(), is_to_hold=account is cast.smpp_acme_1)
    text = extract_text(olga.get(PAGE).text)
    assert "Of the last 100 numbers 77 are consecutive." in text
    assert "The first messages in 90 days to Cuba, at 4.5 credits a part." in text
    assert "on hold" in text
    conn.execute("UPDATE brake_events SET ended_at = 1, answer = 'ours', answered_by = ?", (SHELL.name,))
    assert "answered" in extract_text(olga.get(PAGE).text)
