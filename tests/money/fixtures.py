"""The database that a round begins with: two customers' accounts, with all that makes credits move by themselves."""

from pathlib import Path

from portal import migrations
from portal.core import db
from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.services.people import customers
from portal.services.prices import prices
from tests.money import event_log
from tests.support import sell_packs

# By customer: its credit line, and from which age on its accounts are bought packs; then for each of its accounts what
# it begins with, alert_below, recredit_below, recredit_pack and recredit_per_day.
_AccountSettings = tuple[int, int | None, int | None, int | None, int]
_CUSTOMERS: tuple[tuple[int, int, tuple[_AccountSettings, ...]], ...] = (
    (
        # Room for one of its packs or two, until they are paid.
        250_000,
        0,
        (
            (90_000, 20_000, None, None, 1),
            (40_000, 15_000, 10_000, 100_000, 2),
            (30_000, None, 25_000, 200_000, 1),
            (0, 5_000, None, None, 1),
        ),
    ),
    # Without a credit line, and too young: the operator is asked.
    (0, 60, ((60_000, 30_000, 20_000, 100_000, 3), (20_000, None, None, None, 1))),
)


def create_database(data: Path) -> Path:
    """Create the database, with an event log that begins when all accounts are there; returns its file."""
    data.mkdir(parents=True, exist_ok=True)
    file = data / db.FILE_NAME
    migrations.migrate(file)
    conn = db.connect(file)
    prices.set_prices(conn, SHELL, prices.read_initial_prices())
    sell_packs(conn)
    for number, (credit_line, min_age_days, account_settings) in enumerate(_CUSTOMERS, 1):
        customer = customers.create_customer(conn, SHELL, f"Customer {number}", f"mail@customer-{number}.example")
        conn.execute(
            "UPDATE customers SET credit_line = ?, recredit_min_age_days = ? WHERE id = ?",
            (credit_line, min_age_days, customer.id),
        )
        for balance, *settings in account_settings:
            account = accounts.create_account(conn, SHELL, customer.id)
            if balance:
                credits.grant_credits(conn, SHELL, account, balance)
            conn.execute(
                "UPDATE accounts SET alert_below = ?, recredit_below = ?, recredit_pack = ?, recredit_per_day = ?"
                " WHERE id = ?",
                (*settings, account.id),
            )
    event_log.create_triggers(conn)
    conn.close()
    return file
