"""A connection as octets: cut into PDUs on the way in, gathered on the way out, and ended in the right way."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable
from typing import cast

from portal.core.config import Limits
from portal.services.accounts.allowed_ips import Address
from portal.smsc.admission.connection_limits import ConnectionSlot
from portal.smsc.protocol import pdu
from portal.smsc.protocol.pdu import Header, Malformed

log = logging.getLogger(__name__)

_WRITE_BUFFER = 64 * 1024
_FLUSH_SECONDS = 2.0
_HOLD_SECONDS = 0.1
# What is heard of one client before the others have their turn. uvloop alone would read two megabytes of one that sends
# faster than it is answered: half a second of everybody's event loop.
_OCTETS_A_TURN = 8 * 1024


class PduStream(asyncio.Protocol):
    """One connection from its first octet to its last. What its PDUs mean is its subclass's matter."""

    __slots__ = (
        "_buffer", "_closed", "_deadline", "_deaf", "_heard_at", "_held", "_limits", "_loop", "_needed", "_out",
        "_paused", "_slot", "_transport", "tls",
    )  # fmt: skip

    def __init__(self, slot: ConnectionSlot, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.tls = ""
        self._slot = slot
        self._limits = limits
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self._deaf = False
        self._buffer = bytearray()
        self._needed = pdu.HEADER_LENGTH
        self._heard_at = 0.0
        self._held: asyncio.Handle | None = None
        self._out: list[bytes] = []
        self._paused: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def address(self) -> Address:
        """Where the client is: IPv4 where the socket showed it mapped into IPv6."""
        return self._slot.address

    @property
    def heard_at(self) -> float:
        """When the client was last heard, in seconds of the event loop's clock."""
        return self._heard_at

    # --- what a subclass does

    @abstractmethod
    def _received(self, header: Header, body: bytes) -> None:
        """Act on a PDU."""

    @abstractmethod
    def _may_go_on(self) -> bool:
        """Whether the client may be heard further at this moment; where not, `_hold` or an end has been seen to."""

    @abstractmethod
    def _say_last(self, last_words: bytes) -> None:
        """Nothing more is heard of the client: close after what it is owed, and these octets."""

    @abstractmethod
    def _has_room(self) -> None:
        """The client reads again what it is sent."""

    # --- from the first octet to the last

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        tls = transport.get_extra_info("ssl_object")
        self.tls = tls.version() if tls else ""
        self._heard_at = self._loop.time()
        self._set_deadline(self._limits.bind_seconds, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        for timer in (self._deadline, self._paused, self._held):
            if timer:
                timer.cancel()
        self._slot.left()

    def _set_deadline(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        """Have `call` called unless something else ends sooner: the time to bind, to be bound, to say farewell."""
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, call, *arguments)

    def _close(self) -> None:
        """Close once everything written has left, which is given little time."""
        if self._closed or self._transport is None:
            return
        self._flush()
        self._closed = True
        self._transport.close()
        self._set_deadline(_FLUSH_SECONDS, self._transport.abort)

    def _abort(self, why: str) -> None:
        if self._transport and not self._closed:
            log.warning("%s is cut off: it %s", self.address, why)
            self._closed = True
            self._transport.abort()

    def make_room(self) -> None:
        """End at once, without a word: others wait to bind."""
        self._abort("has not bound, and its place is needed")

    # --- octets out

    def _write(self, octets: bytes) -> None:
        # Gathered: the answers of a whole batch go out in one system call.
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(octets)

    def _flush(self) -> None:
        if self._out and self._transport and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def pause_writing(self) -> None:
        # The client does not read its answers, so it gets no new ones for a while; then it is gone.
        assert self._transport
        self._transport.pause_reading()
        self._paused = self._loop.call_later(self._limits.response_seconds, self._reads_too_slowly)

    def resume_writing(self) -> None:
        if self._paused and self._transport:
            self._paused.cancel()
            self._paused = None
            self._resume()
            self._has_room()

    def _reads_too_slowly(self) -> None:
        self._abort("does not read what it is sent")

    # --- octets in

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._heard_at = self._loop.time()
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed or self._held:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        try:
            self._read(data)
        except Malformed as malformed:
            # Its length is wrong, so where the next PDU starts is anybody's guess.
            log.warning("%s is cut off: %s", self.address, malformed)
            self._deaf = True
            self._say_last(pdu.generic_nack(malformed.sequence, malformed.status))

    def _read(self, data: bytes) -> None:
        start = 0
        self._needed = pdu.HEADER_LENGTH
        while not self._closed:
            header = pdu.read_header(data, start)
            if header is None:
                break
            end = start + header.length
            if end > len(data):
                self._needed = header.length
                break
            if not self._may_go_on():
                break
            self._received(header, data[start + pdu.HEADER_LENGTH : end])
            start = end
            if start >= _OCTETS_A_TURN and not self._closed:
                self._hear_nothing_until(self._loop.call_soon(self._go_on))
                break
        self._buffer += data[start:]

    def _hold(self) -> None:
        """Hear nothing for a moment.

        No refusal but a pause: what the client has sent fills its own connection, and the others have their turn.
        """
        self._hear_nothing_until(self._loop.call_later(_HOLD_SECONDS, self._go_on))

    def _hear_nothing_until(self, held: asyncio.Handle) -> None:
        assert self._transport
        self._transport.pause_reading()
        self._held = held

    def _hear_again(self) -> None:
        """End the moment in which nothing is heard, if it is one."""
        if self._held:
            self._held.cancel()
            self._held = self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._held = None
        if self._transport and not self._transport.is_closing():
            self.data_received(b"")
            self._resume()

    def _resume(self) -> None:
        if self._transport and not (self._held or self._paused or self._transport.is_closing()):
            self._transport.resume_reading()
