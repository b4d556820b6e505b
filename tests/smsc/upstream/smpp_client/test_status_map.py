"""What a carrier's refusals and states mean to customers."""

import pytest

from portal.services.common import message_states
from portal.services.common.message_states import PTT_DESCRIPTIONS, PTT_PENDING
from portal.smsc.protocol.constants import CommandStatus
from portal.smsc.upstream.smpp_client.client import THROTTLING_STATUSES
from portal.smsc.upstream.smpp_client.receipts import INTERMEDIATE_STATES
from portal.smsc.upstream.smpp_client.status_map import TEMPORARY_STATUSES, ptt_from_state, ptt_from_status


@pytest.mark.parametrize(
    ("status", "ptt"),
    [
        (CommandStatus.ESME_RINVDSTADR, 100),
        (CommandStatus.ESME_RINVMSGLEN, 101),
        (CommandStatus.ESME_RINVGSM7CODING, 102),
        (CommandStatus.ESME_RSUBMITFAIL, 7),
        (CommandStatus.ESME_RINVEXPIRY, 801),
        (CommandStatus.ESME_RINVOPTPARAMVAL, 1),
        (0x500, 803),
    ],
)
def test_refusals(status, ptt):
    assert ptt_from_status(status) == ptt
    assert status not in TEMPORARY_STATUSES


def test_what_is_throttled_is_tried_again():
    assert TEMPORARY_STATUSES.issuperset(THROTTLING_STATUSES)


def test_each_state_has_a_ptt_that_customers_can_read():
    states = range(message_states.ENROUTE, message_states.REJECTED + 1)
    assert {each for each in states if ptt_from_state(each) == PTT_PENDING} == INTERMEDIATE_STATES
    assert {ptt_from_state(each) for each in states} <= PTT_DESCRIPTIONS.keys()
    assert [ptt_from_state(each) for each in (2, 3, 4, 5, 7, 8)] == [0, 801, 802, 800, 804, 803]
