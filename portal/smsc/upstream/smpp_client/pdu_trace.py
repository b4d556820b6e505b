"""What operators see of the PDUs of one upstream while they trace it: who sent what, without texts, numbers, passwords.

A field that isn't known to be harmless is not shown: of an optional parameter that nothing here uses, its length alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from portal.core.clock import now_ms
from portal.services.upstreams.receipt_texts import parse_receipt_text
from portal.services.upstreams.traces import TracedPdu, mask_number
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, TlvTag, format_status
from portal.smsc.protocol.pdu import Bind, DataSm, DeliverSm, MalformedPdu, Pdu, PduHeader, ShortMessage
from portal.smsc.upstream.smpp_client.deliver_sm import decode_receipt, is_receipt

# So often what was traced is handed on, and so much of it at most: the event loop has other work than to read each PDU
# twice. 500 a second are more than anybody reads.
_FLUSH_SECONDS = 0.25
_MAX_PDUS = 125
_MASK = "***"
# The names of the standard, where those of the codec are shorter.
_FIELD_NAMES: Mapping[str, str] = {
    "source_ton": "source_addr_ton",
    "source_npi": "source_addr_npi",
    "source": "source_addr",
    "dest_ton": "dest_addr_ton",
    "dest_npi": "dest_addr_npi",
    "destination": "destination_addr",
    "priority": "priority_flag",
    "replace_if_present": "replace_if_present_flag",
    "default_message_id": "sm_default_msg_id",
}
_OF_HEADER = ("command", "sequence", "status")
_HEXADECIMAL_FIELDS = ("esm_class", "interface_version")
_ADDRESSES = ("source", "destination", "address_range")
_SHOWN_TAGS = frozenset(TlvTag) - {TlvTag.MESSAGE_PAYLOAD, TlvTag.OUTGOING_ID, TlvTag.INCOMING_ID}
_MESSAGE_RESPONSES = (CommandId.SUBMIT_SM_RESP, CommandId.DATA_SM_RESP)
# The fields of appendix B that are shown, each as one word.
_RECEIPT_FIELDS = {"id": "id", "submitdate": "submit date", "donedate": "done date", "stat": "stat", "err": "err"}
_MAX_LENGTH = 64


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

    def record_octets(self, bind: int, octets: bytes) -> None:
        """Trace a PDU that is sent."""
        header = pdu.decode_header(octets, 0)
        assert header
        self.record(bind, header, octets[pdu.HEADER_LENGTH :], is_sent=True)

    def record(self, bind: int, header: PduHeader, body: bytes, *, is_sent: bool = False) -> None:
        """Trace a PDU; `bind` is the number of its bind."""
        if len(self._pdus) >= _MAX_PDUS:
            self._left_out += 1
            return
        if not self._pdus:
            asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
        status = format_status(header.status) if header.command & RESPONSE_BIT else ""
        self._pdus.append(
            TracedPdu(
                now_ms(), is_sent, bind, header.sequence, _name_command(header.command), status, describe(header, body)
            )
        )

    def flush(self) -> None:
        """Hand on what was traced."""
        traced, self._pdus = self._pdus, []
        left_out, self._left_out = self._left_out, 0
        if traced:
            self.store(traced, left_out)


def _name_command(command: int) -> str:
    try:
        return CommandId(command).name.lower()
    except ValueError:
        return f"0x{command:08X}"


def describe(header: PduHeader, body: bytes) -> dict[str, str]:
    """Return the fields of a PDU's body that may be shown, by their names in SMPP 3.4; those that are empty or 0 are
    left out, but for data_coding and sm_length.
    """
    try:
        message = pdu.decode_pdu(header, body)
    except MalformedPdu as malformed:
        shown = {"malformed": str(malformed)} if body else {}
        if header.command in _MESSAGE_RESPONSES and not header.status and body:
            # As a session reads it.
            shown["message_id"] = body.partition(b"\0")[0][:_MAX_LENGTH].decode("latin-1")
        return shown
    shown = {}
    for each in fields(message):
        if each.name not in (*_OF_HEADER, "tlvs", "short_message"):
            text = _describe_field(message, each.name)
            if text:
                shown[_FIELD_NAMES.get(each.name, each.name)] = text
    if isinstance(message, ShortMessage):
        shown["sm_length"] = str(len(message.short_message))
    if isinstance(message, DeliverSm | DataSm) and is_receipt(message):
        shown["receipt"] = describe_receipt(decode_receipt(message, "auto"))
    elif isinstance(message, ShortMessage) and message.short_message:
        shown["short_message"] = _MASK
    for tag, value in getattr(message, "tlvs", {}).items():
        shown[_name_tag(tag)] = _describe_tlv(tag, value)
    return shown


def _describe_field(message: Pdu, name: str) -> str:
    value = getattr(message, name)
    if name == "password" and isinstance(message, Bind):
        return _MASK
    if name in _ADDRESSES:
        return mask_number(value)
    if name in _HEXADECIMAL_FIELDS:
        return f"0x{value:02X}" if value else ""
    return str(value) if value or name == "data_coding" else ""


def describe_receipt(text: str) -> str:
    """What a receipt says of its message; of a carrier's own words nothing."""
    found = parse_receipt_text(text)
    words = {name: found[key].split()[:1] for key, name in _RECEIPT_FIELDS.items() if key in found}
    return " ".join(f"{name}:{word[0][:_MAX_LENGTH]}" for name, word in words.items() if word) or _MASK


def _name_tag(tag: int) -> str:
    try:
        return TlvTag(tag).name.lower()
    except ValueError:
        return f"0x{tag:04X}"


def _describe_tlv(tag: int, value: bytes) -> str:
    if tag == TlvTag.RECEIPTED_MESSAGE_ID:
        return value.partition(b"\0")[0][:_MAX_LENGTH].decode("latin-1")
    return f"0x{value[:_MAX_LENGTH].hex().upper()}" if tag in _SHOWN_TAGS else f"{_MASK} ({len(value)})"
