"""`customer change --texts`: what becomes of a customer's texts, in the shell."""

import json
import subprocess
from collections.abc import Callable

from portal.core import db
from portal.services.messages import text_policy
from portal.services.people import customers
from tests.support import Cast

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_texts_are_hidden_and_no_longer_kept(run_app: Run, conn: db.Connection, cast: Cast) -> None:
    assert json.loads(run_app("customer", "change", "Acme", "--texts", "hidden", "--json").stdout)["texts"] == "hidden"
    assert customers.get_customer_by_id(conn, cast.acme).texts == text_policy.HIDDEN
    done = run_app("customer", "change", "Acme", "--texts", "none", "--remove-stored")
    assert "none" in done.stdout
    assert text_policy.is_removing_texts(conn, cast.acme)
    assert customers.get_customer_by_id(conn, cast.globex).texts == text_policy.SHOWN


def test_what_makes_no_sense_is_refused(run_app: Run, conn: db.Connection, cast: Cast) -> None:
    done = run_app("customer", "change", "Acme", "--texts", "secret")
    assert done.returncode == 2
    for also in ((), ("--texts", "hidden")):
        done = run_app("customer", "change", "Acme", "--remove-stored", *also)
        assert done.returncode == 2
        assert "--remove-stored goes with --texts none" in done.stderr
    assert customers.get_customer_by_id(conn, cast.acme).texts == text_policy.SHOWN
