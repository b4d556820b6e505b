"""Looking a carrier's name up, without anybody else waiting for it.

The system's resolver blocks, for as long as it likes. In the event loop's own threads a few names that hang would hold
up every other upstream, and the end of the process.
"""

import asyncio
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address


class HostResolver:
    """Looks up the host of one upstream, for all of its binds; one look-up at a time, in a thread that nobody joins."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def resolve(self, host: str) -> Sequence[str]:
        """Return the addresses of a host, in the order in which they are to be tried.

        Raises OSError where there are none. A caller that is cancelled leaves the look-up to the next one.
        """
        with suppress(ValueError):
            return [str(ip_address(host))]
        if host not in self._pending:
            # Where no thread can be started the next caller tries it again.
            threading.Thread(target=self._look_up, args=(host,), name=f"resolve {host}", daemon=True).start()
            self._pending[host] = self._loop.create_future()
        return await asyncio.shield(self._pending[host])

    def _look_up(self, host: str) -> None:
        result: Sequence[str] | Exception
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            result = list(dict.fromkeys(str(address[0]) for *_, address in found))
        except (OSError, UnicodeError) as error:
            result = error
        # The loop may have ended meanwhile.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._finish, host, result)

    def _finish(self, host: str, result: Sequence[str] | Exception) -> None:
        pending = self._pending.pop(host)
        if isinstance(result, Exception):
            pending.set_exception(result)
            pending.exception()  # nobody may wait for it any more
        else:
            pending.set_result(result)
