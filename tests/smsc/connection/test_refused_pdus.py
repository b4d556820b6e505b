"""The last refused PDUs of an account are kept in memory where that was asked for, and nowhere else."""

import asyncio

import pytest

from portal.core import query_socket
from portal.core.clock import now_ms
from portal.services.accounts import accounts, refused_pdus
from portal.services.accounts.refused_pdus import KEPT_MS, MAX_PDUS, RefusedPdu
from portal.services.common.audit import SHELL
from portal.smsc.connection.refused_pdus import RefusedPdus
from portal.smsc.protocol.constants import CommandId
from tests.smsc.esme import RawEsme, get_account_config, run_smsc, wait_until


@pytest.fixture
def switch(conn, cast):
    """Has refused PDUs of smpp-acme-1 kept, or not."""
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    return lambda kept: refused_pdus.set_refused_pdus_kept(conn, SHELL, account, kept=kept)


async def ask(config, account_id):
    question = {"ask": refused_pdus.REFUSED_PDUS_QUERY, "account_id": account_id}
    answer = await asyncio.to_thread(query_socket.ask_smpp_server, config.data, question)
    return [RefusedPdu(**each) for each in answer]


async def test_they_are_kept_masked_and_newest_first(config, cast, switch):
    login = cast.smpp_acme_1
    switch(True)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        await esme.submit("393331234567", b"a secret", source="NOTMINE")
        await esme.submit("12", b"another secret")
        assert (await esme.submit(text=b"this one is accepted")).status == 0
        octets = esme.build_submit_sm().encode()[16:-1]
        esme.send_octets((16 + len(octets)).to_bytes(4) + bytes((0, 0, 0, 4)) + bytes(4) + (77).to_bytes(4) + octets)
        await esme.wait_for_response(77)
        malformed, second, first = await ask(config, login.id)
        assert await ask(config, cast.smpp_globex_1.id) == []
    assert (first.command, first.status, first.reason, first.value) == (
        "submit_sm",
        "ESME_RINVSRCADR 0x0A",
        "sender",
        "NOTMINE",
    )
    assert first.fields["destination_addr"] == "3933******67"
    assert (first.fields["short_message"], first.fields["sm_length"]) == ("***", "8")
    assert (first.address, first.session) == ("127.0.0.1", second.session)
    assert second.reason == "destination"
    assert (malformed.sequence_number, set(malformed.fields)) == (77, {"malformed"})
    assert "secret" not in str([first, second, malformed])


async def test_refused_binds_are_among_them_without_their_passwords(config, cast, switch):
    switch(True)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect(server.port)
        assert await esme.bind(cast.smpp_acme_1.name, "wrong-pw")
        (refused,) = await ask(config, cast.smpp_acme_1.id)
    assert (refused.command, refused.reason) == ("bind_transceiver", "wrong_password")
    assert refused.fields["password"] == "***"
    assert "wrong-pw" not in str(refused)


async def test_none_are_kept_unless_it_was_asked_for_and_switching_off_forgets(config, cast, switch):
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        await esme.submit(source="NOTMINE")
        assert await ask(config, login.id) == []
        switch(True)
        await wait_until(lambda: get_account_config(server, login.name).refused_pdus_until)
        await esme.submit(source="NOTMINE")
        assert len(await ask(config, login.id)) == 1
        switch(False)
        await wait_until(lambda: not get_account_config(server, login.name).refused_pdus_until)
        assert await ask(config, login.id) == []


async def test_what_has_run_out_keeps_none(config, cast, conn, switch):
    login = cast.smpp_acme_1
    conn.execute("UPDATE accounts SET refused_pdus_until = ? WHERE id = ?", (now_ms() - 1, login.id))
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        await esme.submit(source="NOTMINE")
        assert await ask(config, login.id) == []


async def test_a_new_process_has_none_of_the_one_before(config, cast, switch):
    switch(True)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        await esme.submit(source="NOTMINE")
        assert await ask(config, cast.smpp_acme_1.id)
    async with run_smsc(config):
        assert await ask(config, cast.smpp_acme_1.id) == []


async def test_a_hundred_of_the_last_hour_are_kept():
    kept = RefusedPdus()
    now = now_ms()
    for number in range(MAX_PDUS + 20):
        at = now - KEPT_MS if number < 60 else now
        kept.record(1, RefusedPdu(at, "127.0.0.1", 1, "submit_sm", number, "", "sender", "X", {}))
    found = kept.list_pdus(1)
    assert [each.sequence_number for each in found] == list(range(MAX_PDUS + 19, 59, -1))
    for account_id in range(2, 1_000):
        kept.record(account_id, found[0])
    assert kept.list_pdus(1) == []
    assert kept.list_pdus(999) == [found[0]]
