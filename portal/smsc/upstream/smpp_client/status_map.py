"""What a carrier's refusals and final states mean to customers: whether another try makes sense, and the ptt."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from portal.services.common import message_states
from portal.services.upstreams import mappings
from portal.services.upstreams.mappings import StatusAction
from portal.smsc.protocol.constants import CommandStatus

# Those that CommandStatus has no names for, as nothing else here uses them (5.1.3).
_ESME_RINVDSTNPI, _ESME_RDELIVERYFAILURE = 0x51, 0xFE
_ESME_RINVSRCTON, _ESME_RINVSRCNPI = 0x48, 0x49

THROTTLING_STATUSES = (CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_RMSGQFUL)
"""What a message is refused with that comes too fast: it is sent again."""
TEMPORARY_STATUSES = frozenset(
    (
        *THROTTLING_STATUSES,
        CommandStatus.ESME_RINVBNDSTS,
        CommandStatus.ESME_RSYSERR,
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
# What receipts give as the reason of UNDELIV is mostly an error of the network's own protocol: 3GPP TS 29.002, 17.6.6.
_PTT_BY_NETWORK_ERROR: Mapping[str, int] = {
    # unknownSubscriber, unidentifiedSubscriber, illegalSubscriber, teleserviceNotProvisioned, callBarred
    **dict.fromkeys(("1", "5", "9", "11", "13"), message_states.PTT_SUBSCRIBER),
    # absentSubscriberSM, absentSubscriber, subscriberBusyForMT-SMS
    **dict.fromkeys(("6", "27", "31"), message_states.PTT_UNREACHABLE),
    # illegalEquipment, and sm-DeliveryFailure: mostly a memory that is full
    **dict.fromkeys(("12", "32"), message_states.PTT_EQUIPMENT),
    # facilityNotSupported, systemFailure, dataMissing, unexpectedDataValue
    **dict.fromkeys(("21", "34", "35", "36"), message_states.PTT_NETWORK),
}


@dataclass(frozen=True, slots=True)
class StatusMap:
    """What is done about the command_status of a refusal.

    `throttling`: slow down, and send it again. `temporary`: these, and those with which the same message may be taken
    later. With all others it has failed.
    """

    throttling: frozenset[int]
    temporary: frozenset[int]
    ptts: Mapping[int, int]

    def get_ptt(self, status: int) -> int:
        """Return the ptt of a message that was refused with this command_status for good."""
        return self.ptts.get(status, message_states.PTT_REJECTED)


@lru_cache(maxsize=100)
def build_status_map(text: str = "") -> StatusMap:
    """Return the usual map, with what an upstream's `status_map` says otherwise."""
    rules = mappings.parse_status_map(text)
    throttled = [status for status, rule in rules.items() if rule.action is StatusAction.THROTTLE]
    retried = [status for status, rule in rules.items() if rule.action is not StatusAction.FAIL]
    return StatusMap(
        frozenset((set(THROTTLING_STATUSES) - rules.keys()).union(throttled)),
        frozenset((TEMPORARY_STATUSES - rules.keys()).union(retried)),
        {**_PTT_BY_STATUS, **{status: rule.ptt for status, rule in rules.items() if rule.ptt is not None}},
    )


def ptt_from_receipt(state: int | None, error: str, error_map: str) -> int:
    """Return the ptt of a message whose receipt says this message_state; PTT_PENDING for one that ends nothing.

    Args:
        error: the error code of the receipt, as it came.
        error_map: the setting, what the upstream's own codes mean; the usual ones are looked up where the receipt says
            no more than UNDELIV.
    """
    ptt = message_states.PTT_PENDING if state is None else _PTT_BY_STATE.get(state, message_states.PTT_PENDING)
    if ptt in (message_states.PTT_PENDING, message_states.PTT_NONE):
        return ptt
    code = mappings.fold_error_code(error)
    if state == message_states.UNDELIVERABLE:
        ptt = _PTT_BY_NETWORK_ERROR.get(code, ptt)
    return mappings.parse_error_map(error_map).get(code, ptt)
