"""Receipts and messages from handsets (MO) on their way to an account's receivers."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from typing import Protocol

from portal.core import gsm0338
from portal.core.clock import now_ms
from portal.services.common import message_states
from portal.services.messages.deliveries import HOLDS_ATTEMPTS, LONGEST_WAIT_MS, Deliverable, Incoming, Receipt
from portal.smsc.protocol import times
from portal.smsc.protocol.constants import ESM_CLASS_RECEIPT, Status, Tag, in_receipt
from portal.smsc.protocol.pdu import DeliverSm
from portal.smsc.storage.interface import Storage

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 100
_FIRST_RETRY_MS = 1_000
# With these an ESME says that the message, and not the moment, is at fault (5.1.3).
_FOR_GOOD = (Status.ESME_RX_P_APPN, Status.ESME_RX_R_APPN)
# What comes for the third time is sent alone: where the client dies of it, nothing else shares its fate.
_ALONE_FROM_ATTEMPTS = 2
_TEXT_CHARACTERS = 20
_CODED_DIFFERENTLY = re.compile(r"""[^ !"#%&'()*+,\-./0-9:;<=>?A-Za-z]""")
_SHORT_MESSAGE_OCTETS = 254
_UDH_INDICATOR = 0x40
_GSM_NETWORK = 3
# 5.2.5 and 5.2.6.
_INTERNATIONAL, _NETWORK_SPECIFIC, _E164 = 1, 3, 1
_SHORT_CODE_DIGITS = 8


class Receiver(Protocol):
    """A session bound as receiver or transceiver."""

    def has_room(self) -> bool:
        """Whether its window takes another deliver_sm."""

    def deliver(self, deliverable: Deliverable) -> None:
        """Send one, and tell the account's `Delivery` what came of it."""


class Delivery:
    """Hands what waits for one account to those of its receivers that have room, in order and in turn.

    Works only while a receiver is there. What it hands over stays stored until the ESME has accepted it. What the ESME
    refuses comes again, after a second, two, four and so on; those behind it wait meanwhile, so that the order stays.
    After HOLDS_ATTEMPTS refusals, or one that is for good, they pass it, and it comes again by itself: one message
    that a client can't digest must not keep everything else from it.
    """

    def __init__(self, account_id: int, storage: Storage) -> None:
        self._account_id = account_id
        self._storage = storage
        self._receivers: deque[Receiver] = deque()
        self._turn: asyncio.Handle | None = None
        self._alone: Deliverable | None = None

    def join(self, receiver: Receiver) -> None:
        """Have `receiver` take its share from now on."""
        self._receivers.append(receiver)
        if len(self._receivers) == 1:
            self._storage.attend(self._account_id, self.room)
        self.room()

    def leave(self, receiver: Receiver) -> None:
        """Give `receiver` nothing any more. It tells what it had not got an answer for."""
        self._receivers.remove(receiver)
        if not self._receivers:
            self._storage.attend_no_more(self._account_id)

    def room(self) -> None:
        """A receiver has room again, or something waits."""
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._hand_out)

    def answered(self, deliverable: Deliverable, status: int) -> None:
        """The ESME has answered the deliver_sm of `deliverable`."""
        if status == Status.ESME_ROK:
            self._storage.done(deliverable)
        else:
            deliverable.attempts += 1
            if status in _FOR_GOOD:
                deliverable.attempts = max(deliverable.attempts, HOLDS_ATTEMPTS)
            delay = _delay(deliverable.attempts)
            log.info("delivery %d was refused with 0x%08X, next try in %d ms", deliverable.id, status, delay)
            self._storage.retry(deliverable, now_ms() + delay)
        self._over(deliverable)

    def unanswered(self, deliverable: Deliverable) -> None:
        """The session has ended before the ESME answered the deliver_sm of `deliverable`: it comes again at once.

        Not for ever: a client may end each time because of it. The waits begin small, though: where many sessions end
        together, with the network, it has been given to one after the other within a moment.
        """
        deliverable.attempts += 1
        too_many = deliverable.attempts - HOLDS_ATTEMPTS + 1
        delay = _delay(too_many) if too_many > 0 else 0
        self._storage.retry(deliverable, now_ms() + delay)
        self._over(deliverable)

    def _over(self, deliverable: Deliverable) -> None:
        if deliverable is self._alone:
            self._alone = None
        self.room()

    def _hand_out(self) -> None:
        self._turn = None
        for _ in range(_MOST_AT_ONCE):
            if self._alone:
                return
            receiver = self._receiver_with_room()
            each = self._storage.take(self._account_id) if receiver else None
            if receiver is None or each is None:
                return
            # The next one is for the next receiver.
            self._receivers.rotate(-1)
            if _ALONE_FROM_ATTEMPTS <= each.attempts < HOLDS_ATTEMPTS:
                self._alone = each
            receiver.deliver(each)
        # There may be more, but others have their turn.
        self.room()

    def _receiver_with_room(self) -> Receiver | None:
        for _ in range(len(self._receivers)):
            if self._receivers[0].has_room():
                return self._receivers[0]
            self._receivers.rotate(-1)
        return None


def _delay(attempts: int) -> int:
    """How long (milliseconds) to wait after so many attempts in vain."""
    return min(_FIRST_RETRY_MS << min(attempts - 1, 20), LONGEST_WAIT_MS)


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

    Times are UTC; `err` is the ptt code; the message's own text is cut, and `?` stands for what GSM 03.38, which the
    receipt's data_coding names, and ASCII, which many clients take it for, code differently.
    """
    delivered = receipt.parts if receipt.state == message_states.DELIVERED else 0
    text = _CODED_DIFFERENTLY.sub("?", receipt.text[:_TEXT_CHARACTERS])
    return (
        f"id:{receipt.message_id} sub:{receipt.parts:03d} dlvrd:{delivered:03d}"
        f" submit date:{times.receipt_time(receipt.submitted_at)} done date:{times.receipt_time(receipt.done_at)}"
        f" {in_receipt(receipt.state, receipt.ptt)} text:{text}"
    )


def _c_octets(message_id: int) -> bytes:
    return b"%d\0" % message_id
