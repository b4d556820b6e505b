"""Looking a carrier's name up, without anybody else waiting for it.

The system's resolver blocks, for as long as it likes. In the event loop's own threads a few names that hang would hold
up every other upstream, and the end of the process.
"""

import asyncio
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from ipaddress import ip_address


class HostResolver:
    """Looks up the host of one upstream, for all of its binds; one look-up at a time, in a thread that nobody joins."""

    def __init__(self) -> None:
        self._pending: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def resolve(self, host: str) -> Sequence[str]:
        """Return the addresses of a host, in the order in which they are to be tried.

        Raises OSError where there are none. A caller that is cancelled leaves the look-up to the next one.
        """
        with suppress(ValueError):
            return [str(ip_address(host))]
        if host not in self._pending:
            found: Future[Sequence[str]] = Future()
            # Where no thread can be started the next caller tries it again.
            threading.Thread(target=_look_up, args=(host, found), name=f"resolve {host}", daemon=True).start()
            self._pending[host] = asyncio.wrap_future(found)
            self._pending[host].add_done_callback(partial(self._forget, host))
        return await asyncio.shield(self._pending[host])

    def _forget(self, host: str, looked_up: asyncio.Future[Sequence[str]]) -> None:
        del self._pending[host]
        looked_up.exception()  # nobody may wait for it any more


def _look_up(host: str, found: Future[Sequence[str]]) -> None:
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        found.set_result(list(dict.fromkeys(str(address[0]) for *_, address in addresses)))
    except (OSError, UnicodeError) as error:
        found.set_exception(error)
