"""What a carrier's refusals and final states mean to customers: whether another try makes sense, and the ptt."""

from __future__ import annotations

from collections.abc import Mapping

from portal.services.common import message_states
from portal.smsc.protocol.constants import CommandStatus

# Those that CommandStatus has no names for, as nothing else here uses them (5.1.3).
_ESME_RINVDSTNPI, _ESME_RDELIVERYFAILURE = 0x51, 0xFE
_ESME_RINVSRCTON, _ESME_RINVSRCNPI = 0x48, 0x49

TEMPORARY_STATUSES = frozenset(
    (
        CommandStatus.ESME_RINVBNDSTS,
        CommandStatus.ESME_RSYSERR,
        CommandStatus.ESME_RMSGQFUL,
        CommandStatus.ESME_RTHROTTLED,
        CommandStatus.ESME_RX_T_APPN,
        _ESME_RDELIVERYFAILURE,
    )
)
"""Refusals of the moment: the same message may be taken later."""

_PTT_BY_STATUS: Mapping[int, int] = {
    CommandStatus.ESME_RINVMSGLEN: message_states.PTT_INVALID_CONTENT,
    CommandStatus.ESME_RINVSRCADR: message_states.PTT_OPERATOR,
    _ESME_RINVSRCTON: message_states.PTT_OPERATOR,
    _ESME_RINVSRCNPI: message_states.PTT_OPERATOR,
    CommandStatus.ESME_RINVDSTADR: message_states.PTT_INVALID_NUMBER,
    CommandStatus.ESME_RINVDSTTON: message_states.PTT_INVALID_NUMBER,
    _ESME_RINVDSTNPI: message_states.PTT_INVALID_NUMBER,
    CommandStatus.ESME_RSUBMITFAIL: message_states.PTT_OPERATOR,
    CommandStatus.ESME_RX_P_APPN: message_states.PTT_OPERATOR,
    CommandStatus.ESME_RX_R_APPN: message_states.PTT_OPERATOR,
    CommandStatus.ESME_RUNSDATACODING: message_states.PTT_INVALID_CONTENT,
    CommandStatus.ESME_RINVGSM7CODING: message_states.PTT_INVALID_GSM7,
    # What we have sent is not what it speaks: nothing that the customer could do about.
    CommandStatus.ESME_RINVCMDLEN: message_states.PTT_INTERNAL,
    CommandStatus.ESME_RINVCMDID: message_states.PTT_INTERNAL,
    CommandStatus.ESME_RINVSERTYP: message_states.PTT_INTERNAL,
    CommandStatus.ESME_RINVESMCLASS: message_states.PTT_INTERNAL,
    CommandStatus.ESME_RINVSCHED: message_states.PTT_INTERNAL,
    CommandStatus.ESME_RINVOPTPARSTREAM: message_states.PTT_INTERNAL,
    CommandStatus.ESME_RINVPARLEN: message_states.PTT_INTERNAL,
    CommandStatus.ESME_RINVOPTPARAMVAL: message_states.PTT_INTERNAL,
    CommandStatus.ESME_RINVEXPIRY: message_states.PTT_EXPIRED,
}
_PTT_BY_STATE: Mapping[int, int] = {
    message_states.DELIVERED: message_states.PTT_NONE,
    message_states.EXPIRED: message_states.PTT_EXPIRED,
    message_states.DELETED: message_states.PTT_DELETED,
    message_states.UNDELIVERABLE: message_states.PTT_UNDELIVERABLE,
    message_states.UNKNOWN: message_states.PTT_UNKNOWN,
    message_states.REJECTED: message_states.PTT_REJECTED,
}


def ptt_from_status(status: int) -> int:
    """Return the ptt of a message that was refused with this command_status for good."""
    return _PTT_BY_STATUS.get(status, message_states.PTT_REJECTED)


def ptt_from_state(state: int) -> int:
    """Return the ptt of a message whose receipt says this message_state; PTT_PENDING for one that ends nothing."""
    return _PTT_BY_STATE.get(state, message_states.PTT_PENDING)
