"""Receipts and messages from handsets (MO) on their way to an account's receivers."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import Protocol

from portal.core import gsm0338
from portal.core.clock import now_ms
from portal.services.common import message_states
from portal.services.messages.deliveries import (
    MAX_BLOCKING_ATTEMPTS,
    MAX_RETRY_DELAY_MS,
    Deliverable,
    DeliveryReceipt,
    InboundDelivery,
)
from portal.smsc.protocol import times
from portal.smsc.protocol.constants import ESM_CLASS_RECEIPT, CommandStatus, TlvTag, format_receipt_status
from portal.smsc.protocol.pdu import DeliverSm
from portal.smsc.storage.interface import Storage

log = logging.getLogger(__name__)

_BATCH_SIZE = 100
_MIN_RETRY_DELAY_MS = 1_000
# With these an ESME says that the message, and not the moment, is at fault (5.1.3).
_PERMANENT_ERRORS = (CommandStatus.ESME_RX_P_APPN, CommandStatus.ESME_RX_R_APPN)
# What comes for the third time is sent alone: where the client dies of it, nothing else shares its fate.
_EXCLUSIVE_FROM_ATTEMPTS = 2
_RECEIPT_TEXT_LENGTH = 20
_NOT_ASCII_COMPATIBLE = re.compile(r"""[^ !"#%&'()*+,\-./0-9:;<=>?A-Za-z]""")
_MAX_SHORT_MESSAGE_OCTETS = 254
_UDH_INDICATOR = 0x40
_NETWORK_TYPE_GSM = 3
# 5.2.5 and 5.2.6.
_TON_INTERNATIONAL, _TON_NETWORK_SPECIFIC, _NPI_E164 = 1, 3, 1
_MAX_SHORT_CODE_DIGITS = 8
# For what is done once a message: to find a member by its class takes a tenth of a microsecond.
_RECEIPTED_MESSAGE_ID, _OUTGOING_ID = TlvTag.RECEIPTED_MESSAGE_ID, TlvTag.OUTGOING_ID


class Receiver(Protocol):
    """A session bound as receiver or transceiver."""

    def has_window_space(self) -> bool:
        """Whether its window takes another deliver_sm."""

    def send_deliver_sm(self, deliverable: Deliverable) -> None:
        """Send one, and tell the account's `DeliveryScheduler` what came of it."""


class DeliveryScheduler:
    """Hands what waits for one account to those of its receivers that have room, in order and in turn.

    Works only while a receiver is there. What it hands over stays stored until the ESME has accepted it. What the ESME
    refuses comes again, after a second, two, four and so on; those behind it wait meanwhile, so that the order stays.
    After MAX_BLOCKING_ATTEMPTS refusals, or one that is for good, they pass it, and it comes again by itself: one
    message that a client can't process must not keep everything else from it.
    """

    def __init__(self, account_id: int, storage: Storage) -> None:
        self._account_id = account_id
        self._storage = storage
        self._receivers: deque[Receiver] = deque()
        self._scheduled_run: asyncio.Handle | None = None
        self._exclusive_delivery: Deliverable | None = None

    def add_receiver(self, receiver: Receiver) -> None:
        """Have `receiver` take its share from now on."""
        self._receivers.append(receiver)
        if len(self._receivers) == 1:
            self._storage.subscribe_deliveries(self._account_id, self.schedule_run)
        self.schedule_run()

    def remove_receiver(self, receiver: Receiver) -> None:
        """Give `receiver` nothing any more. It reports what it has got no answer for with `handle_session_end`."""
        self._receivers.remove(receiver)
        if not self._receivers:
            self._storage.unsubscribe_deliveries(self._account_id)

    def schedule_run(self) -> None:
        """A receiver has room again, or something waits."""
        if self._scheduled_run is None:
            self._scheduled_run = asyncio.get_running_loop().call_soon(self._deliver_batch)

    def handle_response(self, deliverable: Deliverable, status: int) -> None:
        """The ESME has answered the deliver_sm of `deliverable`."""
        if status == CommandStatus.ESME_ROK:
            self._storage.complete_delivery(deliverable)
        else:
            deliverable.attempts += 1
            if status in _PERMANENT_ERRORS:
                deliverable.attempts = max(deliverable.attempts, MAX_BLOCKING_ATTEMPTS)
            delay = _compute_retry_delay_ms(deliverable.attempts)
            log.info("delivery %d was refused with 0x%08X, next try in %d ms", deliverable.id, status, delay)
            self._storage.retry_delivery(deliverable, now_ms() + delay)
        self._finish_attempt(deliverable)

    def handle_session_end(self, deliverable: Deliverable) -> None:
        """The session has ended before the ESME answered the deliver_sm of `deliverable`: it comes again at once.

        Not for ever: a client may end each time because of it. The waits begin small, though: where many sessions end
        together, with the network, it has been given to one after the other within a moment.
        """
        deliverable.attempts += 1
        excess_attempts = deliverable.attempts - MAX_BLOCKING_ATTEMPTS + 1
        delay = _compute_retry_delay_ms(excess_attempts) if excess_attempts > 0 else 0
        self._storage.retry_delivery(deliverable, now_ms() + delay)
        self._finish_attempt(deliverable)

    def _finish_attempt(self, deliverable: Deliverable) -> None:
        if deliverable is self._exclusive_delivery:
            self._exclusive_delivery = None
        self.schedule_run()

    def _deliver_batch(self) -> None:
        self._scheduled_run = None
        for _ in range(_BATCH_SIZE):
            if self._exclusive_delivery:
                return
            receiver = self._find_ready_receiver()
            deliverable = self._storage.dequeue_delivery(self._account_id) if receiver else None
            if receiver is None or deliverable is None:
                return
            # The next one is for the next receiver.
            self._receivers.rotate(-1)
            if _EXCLUSIVE_FROM_ATTEMPTS <= deliverable.attempts < MAX_BLOCKING_ATTEMPTS:
                self._exclusive_delivery = deliverable
            receiver.send_deliver_sm(deliverable)
        # There may be more, but others have their turn.
        self.schedule_run()

    def _find_ready_receiver(self) -> Receiver | None:
        for _ in range(len(self._receivers)):
            if self._receivers[0].has_window_space():
                return self._receivers[0]
            self._receivers.rotate(-1)
        return None


def _compute_retry_delay_ms(attempts: int) -> int:
    """How long (milliseconds) to wait after so many attempts in vain."""
    return min(_MIN_RETRY_DELAY_MS << min(attempts - 1, 20), MAX_RETRY_DELAY_MS)


def build_deliver_sm(deliverable: Deliverable, sequence: int, client_id: int) -> DeliverSm:
    """Return the deliver_sm that takes it to the ESME (4.6.1).

    Args:
        client_id: the id by which the client knows the message.
    """
    if isinstance(deliverable, DeliveryReceipt):
        return _build_receipt_deliver_sm(deliverable, sequence, client_id)
    return _build_inbound_deliver_sm(deliverable, sequence, client_id)


def _build_inbound_deliver_sm(incoming: InboundDelivery, sequence: int, client_id: int) -> DeliverSm:
    encoding = gsm0338.ENCODINGS[incoming.data_coding]
    content = incoming.body if incoming.body is not None else gsm0338.encode_body(incoming.text, encoding)
    body = (incoming.udh or b"") + content
    tlvs: dict[int, bytes] = {TlvTag.INCOMING_ID: _encode_message_id(client_id)}
    if len(body) > _MAX_SHORT_MESSAGE_OCTETS:
        tlvs[TlvTag.MESSAGE_PAYLOAD] = body
    return DeliverSm(
        sequence,
        source_ton=_TON_INTERNATIONAL,
        source_npi=_NPI_E164,
        source=incoming.source,
        dest_ton=_TON_NETWORK_SPECIFIC if len(incoming.destination) <= _MAX_SHORT_CODE_DIGITS else _TON_INTERNATIONAL,
        dest_npi=_NPI_E164,
        destination=incoming.destination,
        esm_class=_UDH_INDICATOR if incoming.udh else 0,
        data_coding=incoming.data_coding,
        short_message=b"" if TlvTag.MESSAGE_PAYLOAD in tlvs else body,
        tlvs=tlvs,
    )


def _build_receipt_deliver_sm(receipt: DeliveryReceipt, sequence: int, client_id: int) -> DeliverSm:
    """What became of a message: from the handset, to the sender."""
    encoded_id = _encode_message_id(client_id)
    tlvs: dict[int, bytes] = {
        _RECEIPTED_MESSAGE_ID: encoded_id,
        **_build_outcome_tlvs(receipt.state, receipt.ptt),
        _OUTGOING_ID: encoded_id,
    }
    if receipt.reference is not None:
        tlvs[TlvTag.USER_MESSAGE_REFERENCE] = receipt.reference.to_bytes(2)
    return DeliverSm(
        sequence,
        source_ton=_TON_INTERNATIONAL,
        source_npi=_NPI_E164,
        source=receipt.destination,
        dest_ton=receipt.source_ton,
        dest_npi=receipt.source_npi,
        destination=receipt.source,
        esm_class=ESM_CLASS_RECEIPT,
        short_message=format_receipt_text(receipt, client_id).encode("ascii"),
        tlvs=tlvs,
    )


@cache
def _build_outcome_tlvs(state: int, ptt: int) -> Mapping[int, bytes]:
    return {
        TlvTag.MESSAGE_STATE: bytes((state,)),
        TlvTag.NETWORK_ERROR_CODE: bytes((_NETWORK_TYPE_GSM,)) + ptt.to_bytes(2),
    }


def format_receipt_text(receipt: DeliveryReceipt, client_id: int) -> str:
    """Return the text of appendix B.

    Times are UTC; `err` is the ptt code; the message's own text is cut, and `?` stands for what GSM 03.38, which the
    receipt's data_coding names, and ASCII, which many clients take it for, code differently.
    """
    delivered = receipt.parts if receipt.state == message_states.DELIVERED else 0
    text = _NOT_ASCII_COMPATIBLE.sub("?", receipt.text[:_RECEIPT_TEXT_LENGTH])
    return (
        f"id:{client_id} sub:{receipt.parts:03d} dlvrd:{delivered:03d}"
        f" submit date:{times.format_receipt_time(receipt.submitted_at)}"
        f" done date:{times.format_receipt_time(receipt.done_at)}"
        f" {format_receipt_status(receipt.state, receipt.ptt)} text:{text}"
    )


def _encode_message_id(message_id: int) -> bytes:
    return b"%d\0" % message_id
