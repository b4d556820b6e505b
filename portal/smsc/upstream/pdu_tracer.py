"""The trace of one upstream's PDUs, which operators ask for, over all its connections."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from portal.core.clock import now_ms
from portal.services.upstreams.traces import TracedPdu
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE_BIT, format_status
from portal.smsc.protocol.pdu import PduHeader
from portal.smsc.protocol.pdu_description import name_command

DescribePdu = Callable[[PduHeader, bytes], Mapping[str, str]]

# So often what was traced is handed on, and so much of it at most: the event loop has other work than to read each PDU
# twice. 500 a second are more than anybody reads.
_FLUSH_SECONDS = 0.25
_MAX_PDUS = 125


@dataclass(eq=False)
class PduTracer:
    """The trace of one upstream. Whoever reads or writes a PDU looks at `is_on` first, and that is all while it is off.

    Args:
        store: takes what was traced since the last time, and how many PDUs came beside that.
    """

    store: Callable[[Sequence[TracedPdu], int], None]
    is_on: bool = False
    _ends_at: int = 0
    _pdus: list[TracedPdu] = field(default_factory=list)
    _left_out: int = 0
    _timer: asyncio.TimerHandle | None = None

    def change_end(self, ends_at: int) -> None:
        """Trace until then (unix milliseconds), 0: no more. Called on the event loop."""
        if ends_at == self._ends_at:
            return
        self._ends_at = ends_at
        if self._timer:
            self._timer.cancel()
            self._timer = None
        remaining_ms = ends_at - now_ms()
        self.is_on = remaining_ms > 0
        if self.is_on:
            self._timer = asyncio.get_running_loop().call_later(remaining_ms / 1000, self.change_end, 0)
        else:
            self.flush()

    def record_octets(self, bind: int, octets: bytes, describe: DescribePdu) -> None:
        """Trace a PDU that is sent."""
        header = pdu.decode_header(octets, 0)
        assert header
        self.record(bind, header, octets[pdu.HEADER_LENGTH :], describe, is_sent=True)

    def record(
        self, bind: int, header: PduHeader, body: bytes, describe: DescribePdu, *, is_sent: bool = False
    ) -> None:
        """Trace a PDU; `bind` is the number of its bind, `describe` says what of its fields may be shown."""
        if len(self._pdus) >= _MAX_PDUS:
            self._left_out += 1
            return
        if not self._pdus:
            asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
        status = format_status(header.status) if header.command & RESPONSE_BIT else ""
        self._pdus.append(
            TracedPdu(
                now_ms(), is_sent, bind, header.sequence, name_command(header.command), status, describe(header, body)
            )
        )

    def flush(self) -> None:
        """Hand on what was traced."""
        traced, self._pdus = self._pdus, []
        left_out, self._left_out = self._left_out, 0
        if traced:
            self.store(traced, left_out)
