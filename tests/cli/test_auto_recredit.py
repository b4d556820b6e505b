"""`customer change`, `account alert` and `account recredit`: the rules about credits, in the shell."""

import json
import subprocess
from collections.abc import Callable

from portal.core import db
from portal.services.accounts import accounts
from portal.services.people import customers
from tests.support import Cast

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_the_credit_line_and_the_age_of_accounts(run_app: Run, conn: db.Connection, cast: Cast) -> None:
    done = run_app("customer", "change", "Acme", "--credit-line", "1500", "--min-age", "30", "--json")
    assert json.loads(done.stdout) == {
        "name": "Acme",
        "credit_line": 1500,
        "owed": 0,
        "min_age_days": 30,
        "texts": "shown",
        "messages_months": 12,
    }
    found = customers.get_customer_by_id(conn, cast.acme)
    assert (found.credit_line, found.recredit_min_age_days) == (1_500_000, 30)
    done = run_app("customer", "change", "Acme", "--credit-line", "0")
    assert "min_age_days     30" in done.stdout
    assert customers.get_customer_by_id(conn, cast.acme).credit_line == 0


def test_what_no_operator_means(run_app: Run) -> None:
    done = run_app("customer", "change", "Acme", "--credit-line", "much")
    assert (done.returncode, done.stdout) == (1, "")
    assert "“much” can't be a credit line" in done.stderr


def test_an_alert(run_app: Run, conn: db.Connection) -> None:
    done = run_app(
        "account", "alert", "smpp-acme-1", "--below", "100", "--to", "a@acme.example,b@acme.example", "--json"
    )
    output = json.loads(done.stdout)
    assert (output["alert_below"], output["alert_to"]) == (100, ["a@acme.example", "b@acme.example"])
    assert accounts.get_account(conn, "smpp-acme-1").alert_below == 100_000
    # What isn't given stays.
    run_app("account", "alert", "smpp-acme-1", "--below", "50")
    assert accounts.get_account(conn, "smpp-acme-1").alert_to == ("a@acme.example", "b@acme.example")
    run_app("account", "alert", "smpp-acme-1", "--below", "0")
    assert accounts.get_account(conn, "smpp-acme-1").alert_below is None


def test_a_rule_for_automatic_re_credit(run_app: Run, conn: db.Connection) -> None:
    done = run_app("account", "recredit", "smpp-acme-1", "--below", "100", "--pack", "250", "--per-day", "2", "--json")
    output = json.loads(done.stdout)
    assert (output["recredit_below"], output["recredit_pack"], output["recredit_per_day"]) == (100, 250, 2)
    shown = run_app("account", "recredit", "smpp-acme-1").stdout
    assert "recredit_pack     250" in shown
    assert accounts.get_account(conn, "smpp-acme-1").recredit_pack == 250_000
    run_app("account", "recredit", "smpp-acme-1", "--below", "0")
    assert accounts.get_account(conn, "smpp-acme-1").recredit_below is None


def test_a_rule_that_is_refused(run_app: Run, conn: db.Connection) -> None:
    done = run_app("account", "recredit", "smpp-acme-1", "--below", "100", "--pack", "300")
    assert (done.returncode, done.stderr.strip()) == (1, "There is no such pack.")
    assert accounts.get_account(conn, "smpp-acme-1").recredit_below is None
