"""Messages that wait, and an upstream that takes them."""

from collections.abc import Sequence
from typing import Any

from portal.core.crypto import Keys
from portal.core.db import Connection, write_transaction
from portal.services.common.audit import SHELL
from portal.services.messages.validation import SubmittedMessage
from portal.services.routing import route_table
from portal.services.upstreams import paths, upstreams
from portal.services.upstreams.paths import ChoosePath, UpstreamPath
from portal.services.upstreams.upstreams import Upstream
from tests.services.submitting import store_messages
from tests.support import prepare_submit


def add_upstream(conn: Connection, keys: Keys, name: str = "carrier", **settings: Any) -> Upstream:
    values = {"host": "smpp.carrier.example", "system_id": "acme", "password": "secret", **settings}
    return upstreams.create_upstream(conn, keys, SHELL, name, **values)


def prepare_waiting(conn: Connection, account_id: int, **values: Any) -> SubmittedMessage:
    """A message of an account, from its sender, that has to wait; `priority` and arguments of `validate_submit`."""
    priority = values.pop("priority", 0)
    values["source"] = conn.execute("SELECT address FROM senders WHERE account_id = ?", (account_id,)).fetchone()[0]
    submit = prepare_submit(conn, account_id, **values)
    submit.priority = priority
    submit.is_queued = True
    return submit


def queue_messages(conn: Connection, account_id: int, count: int = 1, **values: Any) -> list[int]:
    """Store messages that wait; returns their ids."""
    return store_messages(conn, [prepare_waiting(conn, account_id, **values) for _ in range(count)])


def queue_of_each(conn: Connection, account_id: int, destinations: Sequence[str]) -> list[int]:
    """Store one message to each destination, which waits; returns their ids."""
    return store_messages(conn, [prepare_waiting(conn, account_id, destination=each) for each in destinations])


def choose_path(conn: Connection) -> ChoosePath:
    """As the server chooses, with the routes that there are."""
    table = route_table.load_route_table(conn)

    def choose(*values: Any) -> UpstreamPath:
        return table.choose(*values).path

    return choose


def reroute(conn: Connection, limit: int = 100) -> None:
    """As the server does when routes have changed."""
    position: paths.ReroutingPosition | None = paths.ReroutingPosition()
    while position is not None:
        with write_transaction(conn):
            position = paths.reroute_messages(conn, position, limit, choose_path(conn))
