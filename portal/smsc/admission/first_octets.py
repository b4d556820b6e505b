"""The first octets of a connection, looked at while they stay in the socket for whoever reads it afterwards.

asyncio and uvloop read a socket from its beginning or not at all: neither takes octets that were read before.
"""

import asyncio
import select
import socket
from collections.abc import Callable

# A pause before another look, where only some have come. Looking can't wait for more: what is there already would
# wake it at once. The pauses grow, so that those who send one octet at a time cost little.
_FIRST_PAUSE_SECONDS = 0.005
_MAX_PAUSE_SECONDS = 0.5


class ConnectionEnded(OSError):
    """The client has closed the connection, or reset it, before it has said what it wants."""


async def peek_first_octets(
    client: socket.socket, count_needed: Callable[[bytes], int], max_octets: int, deadline: float
) -> bytes:
    """Return the first octets, as many as belong together, and leave them in the socket.

    Args:
        client: non-blocking.
        count_needed: is called with the octets that have come, and returns how many are needed. Where it returns more,
            it is called again with more; else these are all. What it raises is passed on.
        max_octets: where more than that are needed, so many are returned as have come.
        deadline: in seconds of the event loop's clock.

    Raises:
        ConnectionEnded: the client has closed the connection before all of them have come.
        TimeoutError: they are not there at the deadline.
        OSError: the connection is lost.
    """
    # Mostly they are there already: no timer is needed then.
    octets = _peek_if_whole(client, count_needed, max_octets)
    if octets is None:
        async with asyncio.timeout_at(deadline):
            await wait_until_readable(client)
            pause = _FIRST_PAUSE_SECONDS
            while (octets := _peek_if_whole(client, count_needed, max_octets)) is None:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _MAX_PAUSE_SECONDS)
    return octets


def _peek_if_whole(client: socket.socket, count_needed: Callable[[bytes], int], max_octets: int) -> bytes | None:
    try:
        octets = client.recv(max_octets, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        raise ConnectionEnded("it has reset the connection") from None
    needed = count_needed(octets) if octets else 1
    if needed <= len(octets):
        return octets[:needed]
    if needed > max_octets:
        return octets
    if _is_closed_by_client(client):
        raise ConnectionEnded("it has closed the connection too early")
    return None


def _is_closed_by_client(client: socket.socket) -> bool:
    # To look at octets that stay where they are never comes to the end behind them.
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(0))


async def wait_until_readable(client: socket.socket) -> None:
    """Wait until there is something to read, or the end."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(client.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(client.fileno())
