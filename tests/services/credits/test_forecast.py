"""How long credits last, and in which words."""

from collections.abc import Callable

import pytest

from portal.core import i18n
from portal.core.clock import DAY_MS
from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts
from portal.services.credits import alerts
from portal.services.credits.alerts import Forecast
from portal.services.statistics import daily_totals

K = credit_amounts.THOUSANDTHS
HOUR_MS = 3_600_000
# A Sunday, noon.
NOON = 1_795_348_800_000


@pytest.fixture
def spent(conn: Connection, acme_1: Account) -> Callable[..., None]:
    """Has so many credits been spent so many days before NOON; smpp-acme-1, three weeks old, holds 1000."""
    conn.execute("UPDATE accounts SET created_at = ?", (NOON - 21 * DAY_MS,))

    def spent(amount: int, days_ago: int = 0) -> None:
        daily_totals.add_daily_totals(conn, [(acme_1.id, NOON // DAY_MS - days_ago, 0, 0, 0, 0, 0, 0, amount * K)])

    return spent


@pytest.fixture
def lasts(conn: Connection, acme_1: Account) -> Callable[[], Forecast]:
    return lambda: alerts.compute_forecast(conn, acme_1.id, NOON)


def test_the_rate_is_that_of_today_and_six_days_before(spent, lasts):
    for days_ago in range(7):
        spent(130, days_ago)
    spent(9999, 7)
    # 910 credits in six days and a half.
    assert lasts() == Forecast(1000 * K, 140 * K, 617_142_857)
    assert lasts().lasts_ms == 1000 * DAY_MS // 140


def test_a_younger_account_has_the_rate_of_its_days(conn, spent, lasts):
    conn.execute("UPDATE accounts SET created_at = ?", (NOON - 2 * DAY_MS,))
    spent(100, 1)
    spent(100, 0)
    assert lasts().spent_per_day == 100 * K


def test_an_hour_of_tests_is_a_day(conn, spent, lasts):
    conn.execute("UPDATE accounts SET created_at = ?", (NOON - HOUR_MS,))
    spent(100)
    assert lasts().spent_per_day == 100 * K


def test_a_history_that_is_older_than_the_account_counts_with_its_days(conn, spent, lasts):
    conn.execute("UPDATE accounts SET created_at = ?", (NOON,))
    for days_ago in range(7):
        spent(130, days_ago)
    assert lasts().spent_per_day == 140 * K


def test_nothing_spent_is_no_rate(spent, lasts):
    spent(100, 7)
    assert lasts() == Forecast(1000 * K, 0, None)


@pytest.mark.parametrize(
    ("balance", "lasts", "english", "italian"),
    [
        (K, None, "No messages in the last 7 days.", "Nessun messaggio negli ultimi 7 giorni."),
        (0, 0, "There are no credits left.", "Non ci sono più crediti."),
        (K, HOUR_MS - 1, "for less than an hour.", "bastano per meno di un’ora."),
        (K, HOUR_MS, "for about 1 hour.", "bastano per circa 1 ora."),
        (K, 2 * DAY_MS - 1, "for about 47 hours.", "bastano per circa 47 ore."),
        (K, 2 * DAY_MS, "until Tuesday.", "bastano fino a martedì."),
        (K, 7 * DAY_MS - 1, "until Sunday.", "bastano fino a domenica."),
        (K, 7 * DAY_MS, "for about 7 days (29 Nov).", "bastano per circa 7 giorni (29 nov)."),
        (K, 365 * DAY_MS - 1, "for about 364 days (22 Nov).", "bastano per circa 364 giorni (22 nov)."),
        (K, 365 * DAY_MS, "for more than a year.", "bastano per più di un anno."),
    ],
)
def test_in_words(balance, lasts, english, italian):
    forecast = Forecast(balance, K, lasts)
    assert forecast.to_text(NOON).endswith(english)
    with i18n.override_language("it"):
        assert forecast.to_text(NOON).endswith(italian)
    assert forecast.to_text(NOON).endswith(english)
