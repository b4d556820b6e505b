"""What waits for an account's receivers as the octets of a deliver_sm (SMPP 3.4, 4.6.1)."""

import re
from functools import cache

from portal.core import gsm0338
from portal.services.common import message_states
from portal.services.messages.deliveries import Deliverable, DeliveryReceipt, InboundDelivery
from portal.smsc.protocol import constants, times
from portal.smsc.protocol.constants import ESM_CLASS_RECEIPT, ESM_CLASS_UDH, CommandId, TlvTag, format_receipt_status
from portal.smsc.protocol.pdu import DeliverSm, encode_pdu, encode_tlvs
from portal.smsc.storage.interface import ClientId

_QUOTED_CHARACTERS = 20
_NOT_ASCII_COMPATIBLE = re.compile(r"""[^ !"#%&'()*+,\-./0-9:;<=>?A-Za-z]""")
_MAX_SHORT_MESSAGE_OCTETS = 254
_NETWORK_TYPE_GSM = 3
# 5.2.5 and 5.2.6.
_TON_INTERNATIONAL, _TON_NETWORK_SPECIFIC, _NPI_E164 = 1, 3, 1
# The mandatory fields of a receipt's deliver_sm that never differ, before its addresses and behind them.
_BEFORE_ADDRESSES = "\0" + chr(_TON_INTERNATIONAL) + chr(_NPI_E164)
_BEHIND_ADDRESSES = chr(ESM_CLASS_RECEIPT) + "\0" * 8
_RECEIPTED_MESSAGE_ID, _OUTGOING_ID = (
    tag.to_bytes(2).decode("latin-1") for tag in (TlvTag.RECEIPTED_MESSAGE_ID, TlvTag.OUTGOING_ID)
)


def encode_deliver_sm(deliverable: Deliverable, sequence: int, client_id: ClientId, *, supports_tlvs: bool) -> bytes:
    """Return the PDU that takes it to the ESME.

    Args:
        client_id: the id by which the client knows the message.
        supports_tlvs: whether the client knows optional parameters (3.4.1). Where not, it gets only the body of a long
            message, which would be lost with its parameter.
    """
    if isinstance(deliverable, DeliveryReceipt):
        return _encode_receipt(deliverable, sequence, client_id, supports_tlvs)
    return _encode_inbound(deliverable, sequence, client_id, supports_tlvs)


def _encode_inbound(incoming: InboundDelivery, sequence: int, client_id: ClientId, supports_tlvs: bool) -> bytes:
    encoding = gsm0338.ENCODINGS[incoming.data_coding]
    content = incoming.body if incoming.body is not None else gsm0338.encode_body(incoming.text, encoding)
    body = (incoming.udh or b"") + content
    tlvs: dict[int, bytes] = {TlvTag.INCOMING_ID: f"{client_id}\0".encode("ascii")} if supports_tlvs else {}
    if len(body) > _MAX_SHORT_MESSAGE_OCTETS:
        tlvs[TlvTag.MESSAGE_PAYLOAD] = body
    is_short_code = len(incoming.destination) <= constants.MAX_SHORT_CODE_DIGITS
    return DeliverSm(
        sequence,
        source_ton=_TON_INTERNATIONAL,
        source_npi=_NPI_E164,
        source=incoming.source,
        dest_ton=_TON_NETWORK_SPECIFIC if is_short_code else _TON_INTERNATIONAL,
        dest_npi=_NPI_E164,
        destination=incoming.destination,
        esm_class=ESM_CLASS_UDH if incoming.udh else 0,
        data_coding=incoming.data_coding,
        short_message=b"" if TlvTag.MESSAGE_PAYLOAD in tlvs else body,
        tlvs=tlvs,
    ).encode()


def _encode_receipt(receipt: DeliveryReceipt, sequence: int, client_id: ClientId, supports_tlvs: bool) -> bytes:
    """What became of a message: from the handset, to the sender.

    As `DeliverSm.encode` does it, but in one step, as there may be a receipt for each message.
    """
    text = format_receipt_text(receipt, client_id)
    body = (
        f"{_BEFORE_ADDRESSES}{receipt.destination}\0{chr(receipt.source_ton)}{chr(receipt.source_npi)}{receipt.source}\0"
        f"{_BEHIND_ADDRESSES}{chr(len(text))}{text}"
    )
    if supports_tlvs:
        id_value = f"\0{chr(len(str(client_id)) + 1)}{client_id}\0"
        outcome = _format_outcome_tlvs(receipt.state, receipt.ptt)
        body += f"{_RECEIPTED_MESSAGE_ID}{id_value}{outcome}{_OUTGOING_ID}{id_value}"
    octets = body.encode("latin-1")
    if supports_tlvs and receipt.reference is not None:
        octets += encode_tlvs({TlvTag.USER_MESSAGE_REFERENCE: receipt.reference.to_bytes(2)})
    return encode_pdu(CommandId.DELIVER_SM, 0, sequence, octets)


@cache
def _format_outcome_tlvs(state: int, ptt: int) -> str:
    network_error_code = bytes((_NETWORK_TYPE_GSM,)) + ptt.to_bytes(2)
    return encode_tlvs({TlvTag.MESSAGE_STATE: bytes((state,)), TlvTag.NETWORK_ERROR_CODE: network_error_code}).decode(
        "latin-1"
    )


def format_receipt_text(receipt: DeliveryReceipt, client_id: ClientId) -> str:
    """Return the text of appendix B.

    Times are UTC; `err` is the ptt code; the message's own text is cut, and `?` stands for what GSM 03.38, which the
    receipt's data_coding names, and ASCII, which many clients take it for, code differently.
    """
    delivered = receipt.parts if receipt.state == message_states.DELIVERED else 0
    text = _NOT_ASCII_COMPATIBLE.sub("?", receipt.text[:_QUOTED_CHARACTERS])
    return (
        f"id:{client_id} sub:{receipt.parts:03d} dlvrd:{delivered:03d}"
        f" submit date:{times.format_receipt_time(receipt.submitted_at)}"
        f" done date:{times.format_receipt_time(receipt.done_at)}"
        f" {format_receipt_status(receipt.state, receipt.ptt)} text:{text}"
    )
