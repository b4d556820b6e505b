"""What a carrier's refusals and states mean to customers."""

import pytest

from portal.services.common import message_states
from portal.services.common.message_states import PTT_DESCRIPTIONS, PTT_PENDING
from portal.services.upstreams import mappings
from portal.smsc.protocol.constants import CommandStatus
from portal.smsc.upstream.smpp_client.status_map import (
    TEMPORARY_STATUSES,
    THROTTLING_STATUSES,
    build_status_map,
    ptt_from_receipt,
)


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
    usual = build_status_map()
    assert usual.get_ptt(status) == ptt
    assert status not in usual.temporary


def test_what_is_throttled_is_tried_again():
    assert TEMPORARY_STATUSES.issuperset(THROTTLING_STATUSES)


def test_each_state_has_a_ptt_that_customers_can_read():
    ptts = {each: ptt_from_receipt(each, "", "") for each in range(message_states.ENROUTE, message_states.REJECTED + 1)}
    assert {each for each, ptt in ptts.items() if ptt == PTT_PENDING} == mappings.ALWAYS_INTERMEDIATE
    assert set(ptts.values()) <= PTT_DESCRIPTIONS.keys()
    assert [ptts[each] for each in (2, 3, 4, 5, 7, 8)] == [0, 801, 802, 800, 804, 803]
    assert ptt_from_receipt(None, "1", "1=100") == PTT_PENDING


def test_what_an_upstream_says_otherwise():
    status_map = build_status_map("0x58=fail:7, 0x45=throttle, 0x0B=retry, 8=fail, 0x402=fail:54")
    assert status_map.throttling == {CommandStatus.ESME_RMSGQFUL, 0x45}
    assert status_map.temporary == (TEMPORARY_STATUSES - {0x58, 8}) | {0x45, 0x0B}
    assert [status_map.get_ptt(each) for each in (0x58, 8, 0x402)] == [7, 803, 54]
    # The usual map is as it was.
    assert build_status_map().throttling == set(THROTTLING_STATUSES)


@pytest.mark.parametrize(
    ("state", "error", "ptt"),
    [
        # The errors of 3GPP TS 29.002 say more than UNDELIV alone.
        (message_states.UNDELIVERABLE, "001", 5),
        (message_states.UNDELIVERABLE, "27", 3),
        (message_states.UNDELIVERABLE, "000", 800),
        (message_states.UNDELIVERABLE, "999", 800),
        (message_states.EXPIRED, "027", 801),
        (message_states.REJECTED, "1", 803),
        # The carrier's own, whatever the state is, but for what was delivered.
        (message_states.UNDELIVERABLE, "006", 54),
        (message_states.EXPIRED, "0x1f", 100),
        (message_states.REJECTED, "0X1F", 100),
        (message_states.DELIVERED, "006", 0),
        (message_states.ENROUTE, "006", PTT_PENDING),
    ],
)
def test_the_error_of_a_receipt_says_why(state, error, ptt):
    assert ptt_from_receipt(state, error, "6=54, 0x1F=100") == ptt
