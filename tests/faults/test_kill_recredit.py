"""kill -9 while each message buys credits: an order has its movement, its message and its mail, or none is there."""

import random
import time
from collections.abc import Callable

import pytest

from portal.core import db
from portal.core.config import Config
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.people import customers
from tests.faults.conftest import ReportCounts
from tests.faults.crowd import run_crowd
from tests.faults.test_kill import kill, kill_all, the_smsc
from tests.serving import is_server_ready
from tests.support import AccountLogin, Cast, RunningServer, wait_until

# A message costs one credit and buys one: so the balance is the same after each, and orders are as many as messages.
_PACK = credit_amounts.THOUSANDTHS
_MOST_BETWEEN = 60
_LONGEST_DELAY_S = 0.02


@pytest.fixture
def opening(config: Config, cast: Cast, logins: list[AccountLogin]) -> dict[int, int]:
    """Makes each message of the accounts buy a pack; returns the balances by account id."""
    conn = db.connect(config.database_file)
    customers.change_customer(
        conn, SHELL, customers.get_customer_by_id(conn, cast.acme), credit_line=10**15, min_age_days=0
    )
    # Rules as customers may set them would buy a few packs a day, and hardly one in the moment of a kill.
    conn.execute("INSERT INTO packs VALUES (?, 7, 'EUR')", (_PACK,))
    marks = ", ".join("?" * len(logins))
    conn.execute(
        "UPDATE accounts SET recredit_below = balance, recredit_pack = ?, recredit_per_day = 1000000"
        f" WHERE id IN ({marks})",
        (_PACK, *(each.id for each in logins)),
    )
    balances = dict(conn.execute("SELECT id, balance FROM accounts WHERE recredit_below IS NOT NULL").fetchall())
    conn.close()
    return balances


def purchases(conn: db.Connection, account_id: int) -> int:
    """How many packs an account has got; each of them is whole."""
    bought, unlike = conn.execute(
        "SELECT count(*), count(*) FILTER (WHERE kind IS NOT 'purchase' OR amount <> credits) FROM orders"
        " LEFT JOIN movements ON movements.id = movement_id WHERE orders.account_id = ?",
        (account_id,),
    ).fetchone()
    assert unlike == 0, "an order without its movement"
    movements = conn.execute(
        "SELECT count(*) FROM movements WHERE account_id = ? AND kind = 'purchase'", (account_id,)
    ).fetchone()[0]
    assert movements == bought, "a movement without its order"
    return int(bought)


def test_what_is_bought_for_a_message_is_there_with_it_or_not_at_all(
    serve: Callable[..., RunningServer],
    config: Config,
    logins: list[AccountLogin],
    opening: dict[int, int],
    rounds: int,
    checked: Callable[[], None],
    tell: ReportCounts,
) -> None:
    chance = random.Random()
    conn = db.connect(config.database_file)

    def proved() -> int:
        """How many packs there are."""
        conn.execute("BEGIN")
        bought = {account_id: purchases(conn, account_id) for account_id in opening}
        sent = dict(conn.execute("SELECT account_id, count(*) FROM messages WHERE price > 0 GROUP BY 1").fetchall())
        balances = dict(conn.execute("SELECT id, balance FROM accounts WHERE recredit_below IS NOT NULL").fetchall())
        (notified,) = conn.execute(
            "SELECT (SELECT count(*) FROM credit_notices) + (SELECT count(*) FROM mails)"
        ).fetchone()
        conn.execute("COMMIT")
        assert balances == opening, "a debit without its pack, or a pack without its debit"
        assert {account_id: count for account_id, count in bought.items() if count} == sent
        assert notified == sum(bought.values()), "a pack that nobody is told of, or twice"
        return sum(bought.values())

    server = serve()
    with run_crowd(server.port, *logins) as clients:
        for number in range(rounds):
            clients.wait_for_messages(chance.randrange(1, _MOST_BETWEEN))
            time.sleep(chance.uniform(0, _LONGEST_DELAY_S))  # a random point, also within a commit
            if number % 2:
                kill_all(server)
            else:
                kill(the_smsc(server))
            checked()
            proved()
            if number % 2:
                server = serve()
        wait_until(lambda: is_server_ready(server), 30)
        clients.wait_for_messages(1)
        clients.stop_sending()
        bought = proved()
        assert bought >= len(clients.acknowledged_texts()), "acknowledged, and not there"
        tell(
            rounds=rounds, acknowledged=len(clients.acknowledged_texts()), bought=bought, answers_lost=clients.in_doubt
        )
    conn.close()
