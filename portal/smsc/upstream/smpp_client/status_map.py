"""What a carrier's refusals and final states mean to customers: whether another try makes sense, and the ptt."""

from __future__ import annotations

from collections.abc import Mapping

from portal.services.common import message_states
from portal.smsc.protocol.constants import CommandStatus

_PTT_INTERNAL, _PTT_OPERATOR = 1, 7
_PTT_INVALID_NUMBER, _PTT_INVALID_CONTENT, _PTT_INVALID_GSM7 = 100, 101, 102
_PTT_UNDELIVERABLE, _PTT_REJECTED, _PTT_UNKNOWN = 800, 803, 804

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
    CommandStatus.ESME_RINVMSGLEN: _PTT_INVALID_CONTENT,
    CommandStatus.ESME_RINVSRCADR: _PTT_OPERATOR,
    _ESME_RINVSRCTON: _PTT_OPERATOR,
    _ESME_RINVSRCNPI: _PTT_OPERATOR,
    CommandStatus.ESME_RINVDSTADR: _PTT_INVALID_NUMBER,
    CommandStatus.ESME_RINVDSTTON: _PTT_INVALID_NUMBER,
    _ESME_RINVDSTNPI: _PTT_INVALID_NUMBER,
    CommandStatus.ESME_RSUBMITFAIL: _PTT_OPERATOR,
    CommandStatus.ESME_RX_P_APPN: _PTT_OPERATOR,
    CommandStatus.ESME_RX_R_APPN: _PTT_OPERATOR,
    CommandStatus.ESME_RUNSDATACODING: _PTT_INVALID_CONTENT,
    CommandStatus.ESME_RINVGSM7CODING: _PTT_INVALID_GSM7,
    # What we have sent is not what it speaks: nothing that the customer could do about.
    CommandStatus.ESME_RINVCMDLEN: _PTT_INTERNAL,
    CommandStatus.ESME_RINVCMDID: _PTT_INTERNAL,
    CommandStatus.ESME_RINVSERTYP: _PTT_INTERNAL,
    CommandStatus.ESME_RINVESMCLASS: _PTT_INTERNAL,
    CommandStatus.ESME_RINVSCHED: _PTT_INTERNAL,
    CommandStatus.ESME_RINVOPTPARSTREAM: _PTT_INTERNAL,
    CommandStatus.ESME_RINVPARLEN: _PTT_INTERNAL,
    CommandStatus.ESME_RINVOPTPARAMVAL: _PTT_INTERNAL,
    CommandStatus.ESME_RINVEXPIRY: message_states.PTT_EXPIRED,
}
_PTT_BY_STATE: Mapping[int, int] = {
    message_states.DELIVERED: message_states.PTT_NONE,
    message_states.EXPIRED: message_states.PTT_EXPIRED,
    message_states.DELETED: message_states.PTT_DELETED,
    message_states.UNDELIVERABLE: _PTT_UNDELIVERABLE,
    message_states.UNKNOWN: _PTT_UNKNOWN,
    message_states.REJECTED: _PTT_REJECTED,
}


def ptt_from_status(status: int) -> int:
    """Return the ptt of a message that was refused with this command_status for good."""
    return _PTT_BY_STATUS.get(status, _PTT_REJECTED)


def ptt_from_state(state: int) -> int:
    """Return the ptt of a message whose receipt says this message_state; PTT_PENDING for one that ends nothing."""
    return _PTT_BY_STATE.get(state, message_states.PTT_PENDING)
