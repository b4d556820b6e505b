"""Upstreams that tests of the dispatcher add."""

from collections.abc import Callable
from typing import Any

import pytest

from portal.core import db, wakeup
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.common.audit import SYSTEM
from portal.services.upstreams import upstreams
from portal.services.upstreams.upstreams import Upstream

AddUpstream = Callable[..., Upstream]


@pytest.fixture
def add_upstream(conn: db.Connection, config: Config, wakeup_sender: wakeup.WakeupSender) -> AddUpstream:
    """Adds one as an operator does, and tells the server."""

    def add(port: int = 0, name: str = "carrier", **settings: Any) -> Upstream:
        values = {"host": "127.0.0.1", "port": port, "system_id": "portal", "reconnect_seconds": 1, **settings}
        upstream = upstreams.create_upstream(conn, Keys.load(config.data), SYSTEM, name, password="secret", **values)
        wakeup_sender.send()
        return upstream

    return add
