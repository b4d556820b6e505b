"""Clients of SMPP 3.3 and older, which know no optional parameters (3.4.1) and keep message ids of eight digits."""

import re

import pytest

from portal.services.accounts import accounts
from portal.services.common import message_states
from portal.services.common.audit import SHELL
from portal.services.messages import blacklist
from portal.services.operations import self_check
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import Bind, CancelSm, DataSm, QuerySm
from tests.smsc.esme import RawEsme, run_smsc, wait_until

HEX_ID = re.compile(r"[0-9A-F]{8}")
DECIMAL_ID = re.compile(r"[1-9][0-9]{14,15}")
LATER = "000000010000000R"
PENDING = "393331230006"


async def bound(server, login, version, command=CommandId.BIND_TRANSCEIVER):
    esme = await RawEsme.connect(server.port)
    bind = Bind(command, next(esme.sequences), login.name, login.password, interface_version=version)
    answer = await esme.request(bind)
    assert answer.status == 0
    return esme, answer


def id_in_text(receipt):
    return receipt.short_message.decode().removeprefix("id:").split()[0]


async def query(esme, message_id):
    return await esme.request(QuerySm(next(esme.sequences), message_id, 5, 0, "ACME"))


async def cancel(esme, message_id):
    return (await esme.request(CancelSm(next(esme.sequences), message_id=message_id, source="ACME"))).status


@pytest.mark.parametrize("version", [0x00, 0x33])
async def test_an_old_client_gets_no_optional_parameter(config, cast, version):
    async with run_smsc(config) as server:
        esme, answer = await bound(server, cast.smpp_acme_1, version)
        assert answer.tlvs == {}
        sent = await esme.submit()
        receipt = await esme.receive_deliver_sm()
        assert receipt.tlvs == {}
        assert f"id:{sent.message_id} ".encode() in receipt.short_message


@pytest.mark.parametrize("version", [0x34, 0x50])
async def test_a_client_of_this_version_or_a_newer_one_gets_them(config, cast, version):
    async with run_smsc(config) as server:
        esme, answer = await bound(server, cast.smpp_acme_1, version)
        assert answer.tlvs == {TlvTag.SC_INTERFACE_VERSION: b"\x34"}
        sent = await esme.submit()
        assert DECIMAL_ID.fullmatch(sent.message_id)
        assert TlvTag.RECEIPTED_MESSAGE_ID in (await esme.receive_deliver_sm()).tlvs


@pytest.mark.parametrize("version", [0x00, 0x33])
async def test_an_old_client_gets_ids_of_eight_hexadecimal_digits(config, cast, conn, version):
    async with run_smsc(config) as server:
        esme, _ = await bound(server, cast.smpp_acme_1, version)
        message_ids = []
        for number in range(20):
            message = DataSm(
                next(esme.sequences),
                source="ACME",
                destination="393331234567",
                registered_delivery=1,
                tlvs={TlvTag.MESSAGE_PAYLOAD: b"hello"},
            )
            sent = await (esme.request(message) if number % 2 else esme.submit())
            assert HEX_ID.fullmatch(sent.message_id)
            message_ids.append(sent.message_id)
            assert id_in_text(await esme.receive_deliver_sm()) == sent.message_id
            for asked in (sent.message_id, sent.message_id.lower()):
                answer = await query(esme, asked)
                assert (answer.status, answer.message_id) == (0, asked)
                assert answer.message_state == message_states.DELIVERED
        assert len(set(message_ids)) == 20
    assert self_check.list_problem_texts(conn) == []


async def test_the_id_is_the_same_on_all_sessions_of_its_account_and_on_no_other(config, cast, change_account):
    change_account(binds=2)
    async with run_smsc(config) as server:
        old, _ = await bound(server, cast.smpp_acme_1, 0x33, CommandId.BIND_TRANSMITTER)
        new, _ = await bound(server, cast.smpp_acme_1, 0x34)
        other, _ = await bound(server, cast.smpp_globex_1, 0x34)
        sent = await old.submit()
        receipt = await new.receive_deliver_sm()
        assert id_in_text(receipt) == sent.message_id
        for tag in (TlvTag.RECEIPTED_MESSAGE_ID, TlvTag.OUTGOING_ID):
            assert receipt.tlvs[tag] == sent.message_id.encode() + b"\0"
        own = await new.submit()
        assert DECIMAL_ID.fullmatch(own.message_id)
        assert id_in_text(await new.receive_deliver_sm()) == own.message_id
        for esme in (old, new):
            assert (await query(esme, sent.message_id)).status == 0
            assert (await query(esme, own.message_id)).status == 0
            waiting = await old.submit(schedule_delivery_time=LATER)
            assert await cancel(esme, waiting.message_id) == 0
            assert id_in_text(await new.receive_deliver_sm()) == waiting.message_id
        assert (await query(other, sent.message_id)).status == CommandStatus.ESME_RINVMSGID
        assert await cancel(other, sent.message_id) == CommandStatus.ESME_RINVMSGID
        assert (await query(new, "FFFFFFFF")).status == CommandStatus.ESME_RINVMSGID


async def test_its_id_waits_with_the_receipt_over_a_restart(config, cast, conn):
    async with run_smsc(config) as server:
        esme, _ = await bound(server, cast.smpp_acme_1, 0x33, CommandId.BIND_TRANSMITTER)
        ended = await esme.submit()
        await wait_until(lambda: conn.execute("SELECT count(*) FROM deliveries").fetchone()[0] == 1)
        waits = await esme.submit(schedule_delivery_time=LATER)
        (row_id,) = conn.execute("SELECT max(id) FROM messages").fetchone()
    async with run_smsc(config) as server:
        esme, _ = await bound(server, cast.smpp_acme_1, 0x34)
        assert id_in_text(await esme.receive_deliver_sm()) == ended.message_id
        # By the id that pages show it is found as well.
        assert (await query(esme, str(row_id))).message_state == message_states.ENROUTE
        assert await cancel(esme, waits.message_id) == 0
        assert id_in_text(await esme.receive_deliver_sm()) == waits.message_id


async def test_one_that_is_rejected_at_once_has_its_id_and_one_that_is_refused_none(
    config, cast, conn, account, change_account
):
    blacklist.add_blacklist_number(conn, SHELL, accounts.get_account(conn, account.name), "393331234567")
    async with run_smsc(config) as server:
        esme, _ = await bound(server, cast.smpp_acme_1, 0x33)
        sent = await esme.submit()
        assert HEX_ID.fullmatch(sent.message_id)
        receipt = await esme.receive_deliver_sm()
        assert id_in_text(receipt) == sent.message_id
        assert b"stat:REJECTD err:053" in receipt.short_message
        change_account(balance=0)
        assert (await esme.submit("393331234568")).status == CommandStatus.ESME_RSUBMITFAIL
    assert conn.execute("SELECT count(*) FROM hex_ids").fetchone()[0] == 1
