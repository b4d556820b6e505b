"""Clients of SMPP 3.3 and older, which know no optional parameters (3.4.1)."""

import pytest

from portal.smsc.protocol.constants import CommandId, TlvTag
from portal.smsc.protocol.pdu import Bind
from tests.smsc.esme import RawEsme, run_smsc


async def bound(server, login, version):
    esme = await RawEsme.connect(server.port)
    bind = Bind(CommandId.BIND_TRANSCEIVER, next(esme.sequences), login.name, login.password, interface_version=version)
    answer = await esme.request(bind)
    assert answer.status == 0
    return esme, answer


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
        await esme.submit()
        assert TlvTag.RECEIPTED_MESSAGE_ID in (await esme.receive_deliver_sm()).tlvs
