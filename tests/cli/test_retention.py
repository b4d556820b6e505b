"""`customer change --messages-months`: how long a customer's messages are kept, in the shell; `compact`."""

import json
import subprocess
from collections.abc import Callable

from portal.core import db
from portal.services.people import customers
from tests.support import Cast, RunningServer

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_a_customer_has_months_of_its_own_until_it_has_none(run_app: Run, conn: db.Connection, cast: Cast) -> None:
    done = run_app("customer", "change", "Acme", "--messages-months", "24", "--json")
    assert json.loads(done.stdout)["messages_months"] == 24
    assert customers.get_customer_by_id(conn, cast.acme).messages_months == 24

    done = run_app("customer", "change", "Acme", "--messages-months", "0", "--json")
    assert json.loads(done.stdout)["messages_months"] == 12
    assert customers.get_customer_by_id(conn, cast.acme).messages_months == customers.DEFAULT_RETENTION


def test_what_is_no_number_of_months_is_refused(run_app: Run, conn: db.Connection, cast: Cast) -> None:
    done = run_app("customer", "change", "Acme", "--messages-months", "-1")
    assert done.returncode == 1
    assert "a whole number of months from 1 to 1200" in done.stderr
    assert customers.get_customer_by_id(conn, cast.acme).messages_months == customers.DEFAULT_RETENTION


def test_the_space_of_what_was_removed_is_given_back_while_the_server_is_stopped(
    run_app: Run, server: RunningServer
) -> None:
    done = run_app("compact")
    assert done.returncode == 1
    assert "Stop it first" in done.stderr
    server.process.terminate()
    server.process.wait()
    value = json.loads(run_app("compact", "--json").stdout)
    assert 0 < value["bytes_after"] <= value["bytes_before"]
