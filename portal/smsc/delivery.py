"""Receipts and messages from handsets (MO) on their way to an account's receivers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import aclosing
from typing import Protocol

from portal import gsm0338
from portal.db import now_ms
from portal.services.deliveries import Deliverable, Incoming, Receipt
from portal.services.messages import DELIVERED
from portal.smsc import times
from portal.smsc.backplane import Backplane
from portal.smsc.pdu import DeliverSm
from portal.smsc.status import MessageState, Status, Tag

log = logging.getLogger(__name__)

ESM_CLASS_RECEIPT = 0x04
"""esm_class of a deliver_sm that carries a receipt (5.2.12)."""

_FIRST_RETRY_MS = 1_000
_LAST_RETRY_MS = 600_000
_TEXT_CHARACTERS = 20
_SHORT_MESSAGE_OCTETS = 254
_UDH_INDICATOR = 0x40
_GSM_NETWORK = 3
# 5.2.5 and 5.2.6.
_INTERNATIONAL, _NETWORK_SPECIFIC, _E164 = 1, 3, 1
_SHORT_CODE_DIGITS = 8

# Appendix B, "Message state".
_STAT = {
    MessageState.ENROUTE: "ENROUTE",
    MessageState.DELIVERED: "DELIVRD",
    MessageState.EXPIRED: "EXPIRED",
    MessageState.DELETED: "DELETED",
    MessageState.UNDELIVERABLE: "UNDELIV",
    MessageState.ACCEPTED: "ACCEPTD",
    MessageState.UNKNOWN: "UNKNOWN",
    MessageState.REJECTED: "REJECTD",
}


class Receiver(Protocol):
    """A session bound as receiver or transceiver."""

    def has_room(self) -> bool:
        """Whether its window takes another deliver_sm."""

    def deliver(self, deliverable: Deliverable) -> None:
        """Send one, and tell the account's `Delivery` what came of it."""


class Delivery:
    """Hands what waits for one account to those of its receivers that have room, in order and in turn.

    Works only while a receiver is there. What it hands over stays stored until the ESME has accepted it.
    """

    def __init__(self, account_id: int, backplane: Backplane) -> None:
        self._account_id = account_id
        self._backplane = backplane
        self._receivers: deque[Receiver] = deque()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def join(self, receiver: Receiver) -> None:
        """Have `receiver` take its share from now on."""
        self._receivers.append(receiver)
        self._room.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def leave(self, receiver: Receiver) -> None:
        """Give `receiver` nothing any more. It gives back what it had not got an answer for."""
        self._receivers.remove(receiver)
        if not self._receivers and self._task is not None:
            self._task.cancel()
            self._task = None

    def room(self) -> None:
        """A receiver has room again."""
        self._room.set()

    def answered(self, deliverable: Deliverable, status: int) -> None:
        """The ESME has answered the deliver_sm of `deliverable`."""
        if status == Status.ESME_ROK:
            self._backplane.done(deliverable)
        else:
            delay = min(_FIRST_RETRY_MS << min(deliverable.attempts, 20), _LAST_RETRY_MS)
            log.info("delivery %d was refused with 0x%08X, next try in %d ms", deliverable.id, status, delay)
            self._backplane.retry(deliverable, now_ms() + delay)
        self._room.set()

    async def _run(self) -> None:
        async with aclosing(self._backplane.deliverables(self._account_id)) as waiting:
            async for each in waiting:
                try:
                    receiver = await self._receiver_with_room()
                except asyncio.CancelledError:
                    self._backplane.give_back(each)
                    raise
                receiver.deliver(each)

    async def _receiver_with_room(self) -> Receiver:
        while True:
            self._room.clear()
            for _ in range(len(self._receivers)):
                self._receivers.rotate(-1)
                if self._receivers[-1].has_room():
                    return self._receivers[-1]
            await self._room.wait()


def deliver_sm(deliverable: Deliverable, sequence: int) -> DeliverSm:
    """Return the deliver_sm that takes it to the ESME (4.6.1)."""
    if isinstance(deliverable, Receipt):
        return _of_receipt(deliverable, sequence)
    return _of_incoming(deliverable, sequence)


def _of_incoming(incoming: Incoming, sequence: int) -> DeliverSm:
    encoding = gsm0338.Encoding(incoming.data_coding)
    content = incoming.body if incoming.body is not None else gsm0338.to_body(incoming.text, encoding)
    body = (incoming.udh or b"") + content
    tlvs: dict[int, bytes] = {Tag.INCOMING_ID: _c_octets(incoming.received_id)}
    if len(body) > _SHORT_MESSAGE_OCTETS:
        tlvs[Tag.MESSAGE_PAYLOAD] = body
    return DeliverSm(
        sequence,
        source_ton=_INTERNATIONAL,
        source_npi=_E164,
        source=incoming.source,
        dest_ton=_NETWORK_SPECIFIC if len(incoming.destination) <= _SHORT_CODE_DIGITS else _INTERNATIONAL,
        dest_npi=_E164,
        destination=incoming.destination,
        esm_class=_UDH_INDICATOR if incoming.udh else 0,
        data_coding=incoming.data_coding,
        short_message=b"" if Tag.MESSAGE_PAYLOAD in tlvs else body,
        tlvs=tlvs,
    )


def _of_receipt(receipt: Receipt, sequence: int) -> DeliverSm:
    """What became of a message: from the handset, to the sender."""
    tlvs: dict[int, bytes] = {
        Tag.RECEIPTED_MESSAGE_ID: _c_octets(receipt.message_id),
        Tag.MESSAGE_STATE: bytes((receipt.state,)),
        Tag.NETWORK_ERROR_CODE: bytes((_GSM_NETWORK,)) + receipt.ptt.to_bytes(2),
        Tag.OUTGOING_ID: _c_octets(receipt.message_id),
    }
    if receipt.reference is not None:
        tlvs[Tag.USER_MESSAGE_REFERENCE] = receipt.reference.to_bytes(2)
    return DeliverSm(
        sequence,
        source_ton=_INTERNATIONAL,
        source_npi=_E164,
        source=receipt.destination,
        dest_ton=receipt.source_ton,
        dest_npi=receipt.source_npi,
        destination=receipt.source,
        esm_class=ESM_CLASS_RECEIPT,
        short_message=receipt_text(receipt).encode("ascii"),
        tlvs=tlvs,
    )


def receipt_text(receipt: Receipt) -> str:
    """Return the text of appendix B.

    Times are UTC; `err` is the ptt code; the message's own text is cut and kept to ASCII.
    """
    delivered = receipt.parts if receipt.state == DELIVERED else 0
    text = "".join(character if " " <= character <= "~" else "?" for character in receipt.text[:_TEXT_CHARACTERS])
    return (
        f"id:{receipt.message_id} sub:{receipt.parts:03d} dlvrd:{delivered:03d}"
        f" submit date:{times.receipt_time(receipt.submitted_at)} done date:{times.receipt_time(receipt.done_at)}"
        f" stat:{_STAT[MessageState(receipt.state)]} err:{receipt.ptt:03d} text:{text}"
    )


def _c_octets(message_id: int) -> bytes:
    return b"%d\0" % message_id
