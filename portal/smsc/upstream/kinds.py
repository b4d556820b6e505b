"""The kinds of upstreams, each with the class that implements it."""

from __future__ import annotations

import asyncio

from portal.services.upstreams import upstreams
from portal.smsc.storage.interface import UpstreamConfig
from portal.smsc.upstream.interface import UpstreamConnection, UpstreamEvents
from portal.smsc.upstream.simulator.simulator import Simulator
from portal.smsc.upstream.smpp_client.upstream import SmppUpstream


def create_connection(
    config: UpstreamConfig, events: UpstreamEvents, loop: asyncio.AbstractEventLoop
) -> UpstreamConnection:
    """Return what connects to an upstream, of its kind; not started."""
    if config.upstream.kind == upstreams.SIMULATOR:
        return Simulator(events.handle_outcomes, loop)
    return SmppUpstream(config, events, loop)
