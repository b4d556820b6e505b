"""Delivery receipts on their way to an account's receivers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import aclosing
from typing import Protocol

from portal.db import now_ms
from portal.services.messages import DELIVERED, Receipt
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
_GSM_NETWORK = 3

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

    def deliver(self, receipt: Receipt) -> None:
        """Send one, and tell the account's `Delivery` what came of it."""


class Delivery:
    """Hands the receipts of one account to those of its receivers that have room, in order and in turn.

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

    def answered(self, receipt: Receipt, status: int) -> None:
        """The ESME has answered the deliver_sm of `receipt`."""
        if status == Status.ESME_ROK:
            self._backplane.done(receipt)
        else:
            delay = min(_FIRST_RETRY_MS << min(receipt.attempts, 20), _LAST_RETRY_MS)
            log.info("receipt %d was refused with 0x%08X, next try in %d ms", receipt.id, status, delay)
            self._backplane.retry(receipt, now_ms() + delay)
        self._room.set()

    async def _run(self) -> None:
        async with aclosing(self._backplane.receipts(self._account_id)) as receipts:
            async for receipt in receipts:
                try:
                    receiver = await self._receiver_with_room()
                except asyncio.CancelledError:
                    self._backplane.give_back(receipt)
                    raise
                receiver.deliver(receipt)

    async def _receiver_with_room(self) -> Receiver:
        while True:
            self._room.clear()
            for _ in range(len(self._receivers)):
                self._receivers.rotate(-1)
                if self._receivers[-1].has_room():
                    return self._receivers[-1]
            await self._room.wait()


def receipt_pdu(receipt: Receipt, sequence: int) -> DeliverSm:
    """Return the deliver_sm that tells the ESME what became of its message: from the handset, to the sender (4.6.1)."""
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
        source_ton=1,
        source_npi=1,
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
