"""What operators see of the PDUs of one upstream while they trace it."""

from portal.services.upstreams.receipt_texts import parse_receipt_text
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import CommandId
from portal.smsc.protocol.pdu import DataSm, DeliverSm, MalformedPdu, PduHeader
from portal.smsc.protocol.pdu_description import MASK, MAX_LENGTH, describe_fields
from portal.smsc.upstream.smpp_client.deliver_sm import decode_receipt, is_receipt

_MESSAGE_RESPONSES = (CommandId.SUBMIT_SM_RESP, CommandId.DATA_SM_RESP)
# The fields of appendix B that are shown, each as one word.
_RECEIPT_FIELDS = {"id": "id", "submitdate": "submit date", "donedate": "done date", "stat": "stat", "err": "err"}


def describe(header: PduHeader, body: bytes) -> dict[str, str]:
    """Return the fields of a PDU's body as `describe_fields` does, and of a receipt what it says."""
    try:
        message = pdu.decode_pdu(header, body)
    except MalformedPdu as malformed:
        shown = {"malformed": str(malformed)} if body else {}
        if header.command in _MESSAGE_RESPONSES and not header.status and body:
            # As a session reads it.
            shown["message_id"] = body.partition(b"\0")[0][:MAX_LENGTH].decode("latin-1")
        return shown
    shown = describe_fields(message)
    if isinstance(message, DeliverSm | DataSm) and is_receipt(message):
        shown.pop("short_message", None)
        shown["receipt"] = describe_receipt(decode_receipt(message, "auto"))
    return shown


def describe_receipt(text: str) -> str:
    """What a receipt says of its message; of a carrier's own words nothing."""
    found = parse_receipt_text(text)
    words = {name: found[key].split()[:1] for key, name in _RECEIPT_FIELDS.items() if key in found}
    return " ".join(f"{name}:{word[0][:MAX_LENGTH]}" for name, word in words.items() if word) or MASK
