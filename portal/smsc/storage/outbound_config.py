"""Upstreams and routes as the SMPP server has them in memory: read again where the database has others."""

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from portal.core.crypto import Keys
from portal.services.routing import routes
from portal.services.routing.routes import DecisiveRows, RouteTable
from portal.services.upstreams import upstreams
from portal.services.upstreams.mappings import InvalidEntry, parse_tags
from portal.services.upstreams.paths import DEFAULT_PATH, UpstreamPath
from portal.services.upstreams.upstreams import UpstreamPasswordUnreadable
from portal.smsc.storage.interface import OutboundListener, UpstreamConfig

log = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class OutboundConfig:
    """What is told `OutboundListener` of upstreams and routes. Whatever reads raises sqlite3.Error.

    `kept_tlv_tags`: the tags of optional parameters that upstreams pass on.
    """

    conn: sqlite3.Connection
    keys: Keys
    kept_tlv_tags: frozenset[int] = frozenset()
    _versions: dict[int, int] = field(default_factory=dict)
    _has_ever_had_upstream: bool = False
    _rows: DecisiveRows = field(default_factory=lambda: DecisiveRows([], {}, None))
    _routes: RouteTable = field(default_factory=lambda: RouteTable([], {}, None))

    def load_upstreams(self, listener: OutboundListener, begin_upstreams: Callable[[], None]) -> None:
        """Tell the listener of upstreams where any has changed; `begin_upstreams` is called before it hears of the
        first that there ever was.
        """
        found = upstreams.list_upstreams(self.conn)
        versions = {each.id: each.version for each in found}
        has_ever_had = bool(found) or upstreams.has_ever_had_upstream(self.conn)
        if (versions, has_ever_had) == (self._versions, self._has_ever_had_upstream):
            return
        configs = []
        tlv_tags: set[int] = set()
        for each in found:
            try:
                tlv_tags |= parse_tags(each.settings.pass_tlvs) if each.enabled else set()
            except InvalidEntry as error:
                log.error("upstream %s passes no optional parameters on: %s", each.name, error)
            try:
                password = upstreams.get_upstream_password(self.conn, self.keys, each)
            except UpstreamPasswordUnreadable as error:
                log.error("%s", error)
                password = None
            configs.append(UpstreamConfig(each, password))
        if has_ever_had and not self._has_ever_had_upstream:
            begin_upstreams()
        self._versions, self._has_ever_had_upstream = versions, has_ever_had
        self.kept_tlv_tags = frozenset(tlv_tags)
        listener.handle_upstreams_changed(configs, has_ever_had=has_ever_had)

    def load_routes(self, listener: OutboundListener) -> None:
        """Tell the listener of routes where anything has changed that decides about messages."""
        # They are looked at at each change of whatever the server has in memory, and that must not take long.
        before, rows = self._rows, routes.read_decisive_rows(self.conn)
        if rows == before:
            return
        self._routes = routes.load_route_table(self.conn)
        self._rows = rows
        listener.handle_routes_changed(self._routes, moves_waiting=rows.routes != before.routes)

    def choose_path(self, account_id: int, destination: str, country: str, source: str) -> UpstreamPath:
        """The `ChoosePath` of the routes that there are. The writer's thread calls it."""
        decision = self._routes.choose(account_id, destination, country, source)
        return DEFAULT_PATH if decision.route_id is None else decision.upstream_ids
