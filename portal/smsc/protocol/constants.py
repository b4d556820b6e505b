"""Command ids, status codes, tags and message states under the names that SMPP 3.4 Issue 1.2 gives them."""

from collections.abc import Mapping
from enum import IntEnum
from functools import cache

from portal.services.common import message_states

RESPONSE_BIT = 0x80000000
"""The bit that makes a request's command id that of its response (5.1.2.1)."""
ESM_CLASS_RECEIPT = 0x04
"""esm_class of a deliver_sm that carries a receipt (5.2.12)."""
ESM_CLASS_UDH = 0x40
"""The bit of esm_class that says that a user data header is before the text (5.2.12)."""
MAX_SHORT_CODE_DIGITS = 8
"""Longer numbers are international ones."""


class CommandId(IntEnum):
    """command_id, 5.1.2.1: those that are spoken here. Anything else is answered with generic_nack ESME_RINVCMDID."""

    GENERIC_NACK = 0x80000000
    BIND_RECEIVER = 0x00000001
    BIND_RECEIVER_RESP = 0x80000001
    BIND_TRANSMITTER = 0x00000002
    BIND_TRANSMITTER_RESP = 0x80000002
    QUERY_SM = 0x00000003
    QUERY_SM_RESP = 0x80000003
    SUBMIT_SM = 0x00000004
    SUBMIT_SM_RESP = 0x80000004
    DELIVER_SM = 0x00000005
    DELIVER_SM_RESP = 0x80000005
    UNBIND = 0x00000006
    UNBIND_RESP = 0x80000006
    CANCEL_SM = 0x00000008
    CANCEL_SM_RESP = 0x80000008
    BIND_TRANSCEIVER = 0x00000009
    BIND_TRANSCEIVER_RESP = 0x80000009
    ENQUIRE_LINK = 0x00000015
    ENQUIRE_LINK_RESP = 0x80000015
    DATA_SM = 0x00000103
    DATA_SM_RESP = 0x80000103


class CommandStatus(IntEnum):
    """command_status, 5.1.3, and the three that the model adds from 0x400 on."""

    ESME_ROK = 0x00
    ESME_RINVMSGLEN = 0x01
    ESME_RINVCMDLEN = 0x02
    ESME_RINVCMDID = 0x03
    ESME_RINVBNDSTS = 0x04
    ESME_RALYBND = 0x05
    ESME_RSYSERR = 0x08
    ESME_RINVSRCADR = 0x0A
    ESME_RINVDSTADR = 0x0B
    ESME_RINVMSGID = 0x0C
    ESME_RBINDFAIL = 0x0D
    ESME_RINVPASWD = 0x0E
    ESME_RINVSYSID = 0x0F
    ESME_RCANCELFAIL = 0x11
    ESME_RMSGQFUL = 0x14
    ESME_RINVSERTYP = 0x15
    ESME_RINVESMCLASS = 0x43
    ESME_RSUBMITFAIL = 0x45
    ESME_RINVDSTTON = 0x50
    ESME_RINVSYSTYP = 0x53
    ESME_RTHROTTLED = 0x58
    ESME_RINVSCHED = 0x61
    ESME_RINVEXPIRY = 0x62
    ESME_RX_T_APPN = 0x64
    ESME_RX_P_APPN = 0x65
    ESME_RX_R_APPN = 0x66
    ESME_RQUERYFAIL = 0x67
    ESME_RINVOPTPARSTREAM = 0xC0
    ESME_RINVPARLEN = 0xC2
    ESME_RINVOPTPARAMVAL = 0xC4
    ESME_RUNKNOWNERR = 0xFF
    ESME_RBINDTHROTTLED = 0x400
    ESME_RUNSDATACODING = 0x401
    ESME_RINVGSM7CODING = 0x402


class RequestRefused(Exception):
    """Something is wrong with a request. `status` is the command_status to answer."""

    def __init__(self, status: CommandStatus, detail: str = "") -> None:
        super().__init__(detail or status.name)
        self.status = status


def format_status(status: int) -> str:
    """Return a command_status as people read it: its name, where it has one, and its number."""
    try:
        return f"{CommandStatus(status).name} 0x{status:02X}"
    except ValueError:
        return f"0x{status:02X}"


class TlvTag(IntEnum):
    """Tags of optional parameters, 5.3.2, and the model's own from 0x1400 on."""

    DEST_ADDR_SUBUNIT = 0x0005
    QOS_TIME_TO_LIVE = 0x0017
    RECEIPTED_MESSAGE_ID = 0x001E
    USER_MESSAGE_REFERENCE = 0x0204
    SAR_MSG_REF_NUM = 0x020C
    SAR_TOTAL_SEGMENTS = 0x020E
    SAR_SEGMENT_SEQNUM = 0x020F
    SC_INTERFACE_VERSION = 0x0210
    NETWORK_ERROR_CODE = 0x0423
    MESSAGE_PAYLOAD = 0x0424
    MESSAGE_STATE = 0x0427
    OUTGOING_ID = 0x1401
    INCOMING_ID = 0x1402


# Appendix B, "Message state"; the keys are those of message_state (5.2.28).
_RECEIPT_STATES: Mapping[int, str] = {
    message_states.ENROUTE: "ENROUTE",
    message_states.DELIVERED: "DELIVRD",
    message_states.EXPIRED: "EXPIRED",
    message_states.DELETED: "DELETED",
    message_states.UNDELIVERABLE: "UNDELIV",
    message_states.ACCEPTED: "ACCEPTD",
    message_states.UNKNOWN: "UNKNOWN",
    message_states.REJECTED: "REJECTD",
}


@cache
def format_receipt_status(state: int, ptt: int) -> str:
    """What became of a message as the text of its receipt says it (appendix B)."""
    return f"stat:{_RECEIPT_STATES[state]} err:{ptt:03d}"
