"""A connection as octets: cut into PDUs on the way in, gathered on the way out, and ended in the right way."""

import asyncio
import logging
import traceback
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import MalformedPdu, PduHeader

log = logging.getLogger(__name__)

MAX_SEQUENCE_NUMBER = 0x7FFFFFFF
"""The largest that there is (5.1.4); 1 comes behind it."""

_MAX_WRITE_BUFFER = 64 * 1024
_FLUSH_TIMEOUT_SECONDS = 2.0
# A record of the type handshake, of TLS 1.x (RFC 8446, 5.1).
_TLS_HANDSHAKE = b"\x16\x03"
_READ_PAUSE_SECONDS = 0.1
# What is read of one peer before the others have their turn. uvloop alone would read two megabytes of one that sends
# faster than it is answered: half a second of everybody's event loop.
_MAX_OCTETS_PER_TURN = 8 * 1024


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class PduStream(asyncio.Protocol):
    """One connection from its first octet to its last. What its PDUs mean is its subclass's matter.

    The peer is whoever is at the other end: a client of the server's, or an upstream's SMSC. `last_received_at`: when
    it was last heard, in seconds of the event loop's clock. `tls`: the version, empty when unsecured.
    `slow_reader_seconds`: how long it may read nothing of what it is sent.
    """

    slow_reader_seconds: float
    tls: str = ""
    last_received_at: float = 0.0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _transport: asyncio.Transport | None = None
    _closed: bool = False
    _ignores_input: bool = False
    _buffer: bytearray = field(default_factory=bytearray)
    _octets_needed: int = pdu.HEADER_LENGTH
    _last_sequence_number: int = 0
    # When what is read at this moment was begun with, also after a pause.
    _turn_started_at: float = 0.0
    _resume_handle: asyncio.Handle | None = None
    _outgoing: list[bytes] = field(default_factory=list)
    _holds_output: bool = False
    _slow_reader_timer: asyncio.TimerHandle | None = None
    _deadline_timer: asyncio.TimerHandle | None = None

    @property
    def is_reading_paused(self) -> bool:
        """Whether the peer isn't read at this moment: it has sent more than it may, or doesn't read itself."""
        return self._resume_handle is not None or self._slow_reader_timer is not None

    # --- what a subclass does

    @property
    @abstractmethod
    def log_name(self) -> str:
        """What the log calls the peer."""

    @abstractmethod
    def _pdu_received(self, header: PduHeader, body: bytes) -> None:
        """Act on a PDU."""

    @abstractmethod
    def _may_process_pdu(self, command: int) -> bool:
        """Whether the peer's next PDU, of this command_id, may be processed at this moment.

        Where not, the subclass has called `_pause_reading_briefly`, or closed the connection.
        """

    @abstractmethod
    def _end_stream(self, malformed: MalformedPdu) -> None:
        """Nothing more is read, as no length was valid: answer with generic_nack, and close."""

    @abstractmethod
    def _writing_resumed(self) -> None:
        """The peer has begun to read again what it is sent."""

    # --- from the first octet to the last

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_MAX_WRITE_BUFFER)
        tls = transport.get_extra_info("ssl_object")
        self.tls = tls.version() if tls else ""
        self.last_received_at = self._loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        for timer in (self._deadline_timer, self._slow_reader_timer, self._resume_handle):
            if timer:
                timer.cancel()

    def _set_deadline(self, seconds: float, callback: Callable[..., None], *arguments: object) -> None:
        """Call `callback` after so many seconds, instead of the one before: the time to bind, to stay, to unbind."""
        if self._deadline_timer:
            self._deadline_timer.cancel()
        self._deadline_timer = self._loop.call_later(seconds, callback, *arguments)

    def _flush_and_close(self) -> None:
        """Close once everything written has left, which is given little time."""
        if self._closed or self._transport is None:
            return
        self._flush()
        self._closed = True
        self._transport.close()
        self._set_deadline(_FLUSH_TIMEOUT_SECONDS, self._transport.abort)

    def abort(self, reason: str) -> None:
        """End at once; `reason` says what the peer does, for the log."""
        if self._transport and not self._closed:
            log.warning("disconnecting %s: it %s", self.log_name, reason)
            self._closed = True
            self._transport.abort()

    # --- octets out

    def _write(self, octets: bytes) -> None:
        # Gathered: the answers of a whole batch go out in one system call.
        if not self._outgoing and not self._holds_output:
            self._loop.call_soon(self._flush)
        self._outgoing.append(octets)

    def _write_request(self, command: CommandId) -> None:
        """Send a request that is its header alone."""
        self._write(pdu.encode_pdu(command, CommandStatus.ESME_ROK, self._next_sequence_number(), b""))

    def _next_sequence_number(self) -> int:
        self._last_sequence_number = self._last_sequence_number % MAX_SEQUENCE_NUMBER + 1
        return self._last_sequence_number

    def _hold_output(self) -> None:
        """Send what was written, and what is written from now on not before `_release_output` or the end.

        What is sent to a peer that has closed resets the connection, and what it had sent before would be lost.
        """
        self._flush()
        self._holds_output = True

    def _release_output(self) -> None:
        self._holds_output = False
        self._flush()

    def _flush(self) -> None:
        if self._outgoing and self._transport and not self._transport.is_closing():
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def pause_writing(self) -> None:
        # The peer does not read its answers, so it gets no new ones for a while; then it is gone.
        assert self._transport
        self._transport.pause_reading()
        self._slow_reader_timer = self._loop.call_later(self.slow_reader_seconds, self._abort_slow_reader)

    def resume_writing(self) -> None:
        if self._slow_reader_timer and self._transport:
            self._slow_reader_timer.cancel()
            self._slow_reader_timer = None
            self._resume_reading()
            self._writing_resumed()

    def _abort_slow_reader(self) -> None:
        self.abort("does not read what it is sent")

    # --- octets in

    def data_received(self, data: bytes) -> None:
        if self._ignores_input:
            return
        self._turn_started_at = self._loop.time()
        if data:
            self.last_received_at = self._turn_started_at
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._octets_needed or self._resume_handle:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        try:
            self._process_pdus(data)
        except MalformedPdu as malformed:
            # Its length is wrong, so where the next PDU starts is anybody's guess.
            reason = "it speaks TLS, on the unsecured port" if data.startswith(_TLS_HANDSHAKE) else malformed
            log.warning("disconnecting %s: %s", self.log_name, reason)
            self._ignores_input = True
            self._end_stream(malformed)
        except Exception as error:
            # What was read behind it is lost, and after a pause nothing more would be read. The error may quote a text.
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            places = ", ".join(f"{Path(each.filename).name}:{each.lineno}" for each in frames)
            log.error("a PDU of %s could not be processed: %s at %s", self.log_name, type(error).__name__, places)
            self.abort("has sent a PDU that could not be processed")

    def _process_pdus(self, data: bytes) -> None:
        start = 0
        self._octets_needed = pdu.HEADER_LENGTH
        while not self._closed:
            header = pdu.decode_header(data, start)
            if header is None:
                break
            end = start + header.length
            if end > len(data):
                self._octets_needed = header.length
                break
            if not self._may_process_pdu(header.command):
                break
            self._pdu_received(header, data[start + pdu.HEADER_LENGTH : end])
            start = end
            if start >= _MAX_OCTETS_PER_TURN and not self._closed:
                self._pause_reading(self._loop.call_soon(self._process_and_resume_reading))
                break
        self._buffer += data[start:]

    def _pause_reading_briefly(self) -> None:
        """Read nothing for a moment.

        No refusal but a pause: what the peer has sent fills its own connection, and the others have their turn.
        """
        self._pause_reading(self._loop.call_later(_READ_PAUSE_SECONDS, self._process_and_resume_reading))

    def _pause_reading(self, resume_handle: asyncio.Handle) -> None:
        assert self._transport
        self._transport.pause_reading()
        self._resume_handle = resume_handle

    def _end_reading_pause(self) -> None:
        """Go on reading now, where that was paused."""
        if self._resume_handle:
            self._resume_handle.cancel()
            self._resume_handle = self._loop.call_soon(self._process_and_resume_reading)

    def _process_and_resume_reading(self) -> None:
        self._resume_handle = None
        if self._transport and not self._transport.is_closing():
            self.data_received(b"")
            self._resume_reading()

    def _resume_reading(self) -> None:
        if self._transport and not (self._resume_handle or self._slow_reader_timer or self._transport.is_closing()):
            self._transport.resume_reading()
