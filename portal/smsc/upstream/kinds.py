"""The kinds of upstreams, each with the class that implements it."""

from portal.services.upstreams import upstreams
from portal.smsc.upstream.channel import UpstreamChannel
from portal.smsc.upstream.interface import UpstreamConnection
from portal.smsc.upstream.simulator.simulator import Simulator
from portal.smsc.upstream.smpp_client.upstream import SmppUpstream


def create_connection(channel: UpstreamChannel) -> UpstreamConnection:
    """Return what connects to a channel's upstream, of its kind; not started."""
    if channel.config.upstream.kind == upstreams.SIMULATOR:
        return Simulator(channel.handle_outcomes)
    return SmppUpstream(channel.config, channel)
