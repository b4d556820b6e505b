"""Each line of the bind table: who may bind, and what the others are told."""

import asyncio
import hmac
import ssl
from contextlib import suppress
from dataclasses import replace

import pytest

from portal.services.accounts import accounts, allowed_ips, credentials, refused_binds, session_records
from portal.services.common.audit import SHELL
from portal.services.messages.smpp_config import AccountConfig
from portal.smsc.admission import bind_auth
from portal.smsc.admission.connection_limits import ConnectionSlot
from portal.smsc.connection.session import SmppSession
from portal.smsc.limits import DEFAULT_SERVER_LIMITS
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import Bind, DeliverSm, HeaderOnlyPdu, Pdu, SubmitSm
from portal.smsc.storage.sqlite import Storage
from tests.smsc.esme import RawEsme, get_account_config, run_smsc, wait_until
from tests.support import list_refused_binds

BINDS = [CommandId.BIND_TRANSMITTER, CommandId.BIND_RECEIVER, CommandId.BIND_TRANSCEIVER]


@pytest.mark.parametrize("command", BINDS)
async def test_the_right_password_from_the_right_address_binds(config, cast, conn, command):
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        esme = await RawEsme.connect(server.port)
        answer = await esme.request(Bind(command, 7, login.name, login.password))
        assert (answer.command, answer.status, answer.system_id) == (command | RESPONSE_BIT, 0, "SMPP-Portal")
        assert answer.tlvs == {TlvTag.SC_INTERFACE_VERSION: b"\x34"}
        (row,) = await wait_until(lambda: session_records.list_open_smpp_sessions(conn, login.id))
        assert (row.address, row.bind_type, row.tls) == ("127.0.0.1", command.name.removeprefix("BIND_").lower(), "")
    assert session_records.list_open_smpp_sessions(conn, login.id) == []


async def test_a_client_of_an_older_version_gets_no_optional_parameter(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect(server.port)
        bind = Bind(
            CommandId.BIND_TRANSMITTER, 1, cast.smpp_acme_1.name, cast.smpp_acme_1.password, interface_version=0x33
        )
        answer = await esme.request(bind)
        assert (answer.status, answer.tlvs) == (0, {})


async def refused(server, system_id, password, from_address=None):
    esme = await RawEsme.connect(server.port, from_address=from_address)
    status = await esme.bind(system_id, password)
    await esme.close()
    return status


async def test_an_unknown_system_id_looks_like_a_wrong_password(config):
    async with run_smsc(config) as server:
        assert await refused(server, "smpp-nobody", "whatever") == CommandStatus.ESME_RINVPASWD


async def test_an_unknown_system_id_is_told_by_setting(config, cast):
    config = replace(config, smpp=replace(config.smpp, unknown_system_id="0x0F"))
    async with run_smsc(config) as server:
        assert await refused(server, "smpp-nobody", "whatever") == CommandStatus.ESME_RINVSYSID
        assert await refused(server, cast.smpp_acme_1.name, "whatever") == CommandStatus.ESME_RINVPASWD


async def test_an_unknown_system_id_takes_the_same_steps_as_a_wrong_password(config, cast, conn, monkeypatch):
    """So it takes as long."""
    steps = []

    def record(owner, name):
        function = getattr(owner, name)

        def record_call(*args, **kwargs):
            steps.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, record_call)

    for owner, name in [
        (Storage, "find_account"),
        (Storage, "compute_password_digest"),
        (Storage, "record_refused_bind"),
        (AccountConfig, "permits_address"),
        (AccountConfig, "find_bind_refusal"),
        (SmppSession, "write_bind_refusal"),
        (bind_auth, "find_password"),
        (hmac, "compare_digest"),
        (refused_binds, "record_refused_binds"),
    ]:
        record(owner, name)

    async with run_smsc(config) as server:
        seen = []
        for system_id in (cast.smpp_acme_1.name, "smpp-nobody"):
            steps.clear()
            assert await refused(server, system_id, "wrong", "127.0.0.2") == CommandStatus.ESME_RINVPASWD
            await wait_until(lambda: "record_refused_binds" in steps)
            seen.append(steps.copy())
    assert seen[0] == seen[1]
    assert len(list_refused_binds(conn, cast.smpp_acme_1.id)) == 1
    assert conn.execute("SELECT count(*) FROM refusals").fetchone()[0] == 1
    (unknown,) = refused_binds.list_unknown_binds(conn, 0)
    assert (unknown.system_id, unknown.address, unknown.count) == ("smpp-nobody", "127.0.0.2", 1)


async def test_a_wrong_password_and_a_wrong_address_look_alike(config, cast, conn):
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        assert await refused(server, login.name, "wrong") == CommandStatus.ESME_RINVPASWD
        assert await refused(server, login.name, login.password, "127.0.0.2") == CommandStatus.ESME_RINVPASWD
        seen = await wait_until(lambda: len(rows := list_refused_binds(conn, login.id)) == 2 and rows)
    assert {(each.value, each.reason) for each in seen} == {
        ("127.0.0.1", refused_binds.WRONG_PASSWORD),
        ("127.0.0.2", refused_binds.NOT_AUTHORISED),
    }


async def test_a_password_that_was_replaced_is_told_to_the_accounts_users_and_not_to_the_client(
    config, cast, conn, keys, account
):
    login = cast.smpp_acme_1
    credentials.regenerate_smpp_password(conn, keys, SHELL, account, send_mail=False)
    async with run_smsc(config) as server:
        assert await refused(server, login.name, login.password) == CommandStatus.ESME_RINVPASWD
        assert await refused(server, login.name, login.password, "127.0.0.2") == CommandStatus.ESME_RINVPASWD
        seen = await wait_until(lambda: len(rows := list_refused_binds(conn, login.id)) == 2 and rows)
    assert {
        (each.value, each.reason, refused_binds.find_password_replacement(conn, each) is not None) for each in seen
    } == {
        ("127.0.0.1", refused_binds.REPLACED_PASSWORD, True),
        ("127.0.0.2", refused_binds.NOT_AUTHORISED, False),
    }


@pytest.mark.parametrize("fault", [refused_binds.ACCOUNT_DISABLED, refused_binds.NO_IP])
@pytest.mark.parametrize("has_right_password", [True, False])
async def test_no_address_and_a_disabled_account_are_told_who_has_the_right_password(
    config, cast, conn, fault, has_right_password
):
    login = cast.smpp_acme_2 if fault == refused_binds.NO_IP else cast.smpp_globex_1
    if fault == refused_binds.ACCOUNT_DISABLED:
        accounts.disable_account(conn, SHELL, accounts.get_account(conn, login.name))
    async with run_smsc(config) as server:
        status = await refused(server, login.name, login.password if has_right_password else "wrong")
        assert status == (CommandStatus.ESME_RBINDFAIL if has_right_password else CommandStatus.ESME_RINVPASWD)
        (row,) = await wait_until(lambda: list_refused_binds(conn, login.id))
        assert row.reason == fault


async def test_a_password_that_was_replaced_is_not_the_right_one_of_a_disabled_account(
    config, cast, conn, keys, account
):
    credentials.regenerate_smpp_password(conn, keys, SHELL, account, send_mail=False)
    accounts.disable_account(conn, SHELL, account)
    async with run_smsc(config) as server:
        assert await refused(server, account.name, cast.smpp_acme_1.password) == CommandStatus.ESME_RINVPASWD


async def test_a_classic_account_looks_like_a_wrong_password(config, cast, conn):
    async with run_smsc(config) as server:
        assert await refused(server, cast.sms_acme_1.name, "") == CommandStatus.ESME_RINVPASWD
        (row,) = await wait_until(lambda: list_refused_binds(conn, cast.sms_acme_1.id))
        assert row.reason == refused_binds.CLASSIC_ACCOUNT


async def test_a_fault_of_the_account_is_counted_like_a_wrong_password(config, cast):
    login = cast.smpp_acme_2
    async with run_smsc(config, replace(DEFAULT_SERVER_LIMITS, wrong_bind_seconds=0)) as server:
        for _ in range(10):
            assert await refused(server, login.name, login.password) == CommandStatus.ESME_RBINDFAIL
        assert await refused(server, login.name, login.password) == CommandStatus.ESME_RBINDTHROTTLED
        assert await refused(server, "smpp-nobody", "wrong") == CommandStatus.ESME_RBINDTHROTTLED


async def test_one_transceiver_or_one_pair(config, cast):
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        transceiver = await RawEsme.connect_and_bind(server.port, login)
        for command in BINDS:
            other = await RawEsme.connect(server.port)
            assert await other.bind(login.name, login.password, command) == CommandStatus.ESME_RALYBND
        await transceiver.request(HeaderOnlyPdu(CommandId.UNBIND, 9))
        await transceiver.wait_for_close()
        await RawEsme.connect_and_bind(server.port, login, CommandId.BIND_TRANSMITTER)
        await RawEsme.connect_and_bind(server.port, login, CommandId.BIND_RECEIVER)
        for command in BINDS:
            other = await RawEsme.connect(server.port)
            assert await other.bind(login.name, login.password, command) == CommandStatus.ESME_RALYBND


async def test_more_binds_where_the_account_has_them(config, cast, change_account):
    async with run_smsc(config) as server:
        change_account(binds=2)
        await wait_until(lambda: get_account_config(server, cast.smpp_acme_1.name).binds == 2)
        for _ in range(2):
            await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        third = await RawEsme.connect(server.port)
        assert await third.bind(cast.smpp_acme_1.name, cast.smpp_acme_1.password) == CommandStatus.ESME_RALYBND


async def test_a_second_bind_on_one_connection(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert await esme.bind(cast.smpp_acme_1.name, cast.smpp_acme_1.password) == CommandStatus.ESME_RALYBND
        assert (await esme.submit()).status == 0


async def test_a_connection_may_try_again(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect(server.port)
        assert await esme.bind(cast.smpp_acme_1.name, "wrong") == CommandStatus.ESME_RINVPASWD
        assert await esme.bind(cast.smpp_acme_1.name, cast.smpp_acme_1.password) == 0


async def test_guessing_is_throttled_and_strangers_lock_nobody_out(config, cast):
    login = cast.smpp_acme_1
    async with run_smsc(config, replace(DEFAULT_SERVER_LIMITS, wrong_bind_seconds=0)) as server:
        for _ in range(10):
            assert await refused(server, login.name, "guess", "127.0.0.3") == CommandStatus.ESME_RINVPASWD
        assert await refused(server, login.name, "guess", "127.0.0.3") == CommandStatus.ESME_RBINDTHROTTLED
        assert await refused(server, login.name, login.password, "127.0.0.4") == CommandStatus.ESME_RBINDTHROTTLED
        await RawEsme.connect_and_bind(server.port, login)


async def test_a_change_of_addresses_counts_at_the_next_bind(config, cast, conn, wakeup_sender):
    login = cast.smpp_acme_2
    account = accounts.get_account(conn, login.name)
    async with run_smsc(config) as server:
        assert await refused(server, login.name, login.password) == CommandStatus.ESME_RBINDFAIL
        allowed_ips.add_allowed_ip(conn, SHELL, account, "127.0.0.0/24")
        wakeup_sender.send()
        await wait_until(lambda: accounts.get_account(conn, login.name).status == accounts.SUCCESS)
        await RawEsme.connect_and_bind(server.port, login, from_address="127.0.0.77")


async def test_a_change_without_a_wakeup_is_found_soon(config, cast, conn):
    async with run_smsc(config) as server:
        allowed_ips.add_allowed_ip(conn, SHELL, accounts.get_account(conn, cast.smpp_acme_2.name), "127.0.0.1")
        await wait_until(lambda: accounts.get_account(conn, cast.smpp_acme_2.name).status == accounts.SUCCESS)
        await RawEsme.connect_and_bind(server.port, cast.smpp_acme_2)


@pytest.mark.parametrize("command", [CommandId.SUBMIT_SM, CommandId.DELIVER_SM, CommandId.UNBIND])
async def test_what_an_open_connection_may_not(config, command):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect(server.port)
        messages: dict[CommandId, Pdu] = {CommandId.SUBMIT_SM: SubmitSm(5), CommandId.DELIVER_SM: DeliverSm(5)}
        message = messages.get(command, HeaderOnlyPdu(command, 5))
        assert (await esme.request(message)).status == CommandStatus.ESME_RINVBNDSTS
        assert (await esme.request(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 6))).status == 0


async def test_a_receiver_may_not_submit(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        assert (await esme.submit()).status == CommandStatus.ESME_RINVBNDSTS


async def test_no_bind_in_time_is_closed(limited):
    async with run_smsc(limited(bind_seconds=0.1)) as server:
        esme = await RawEsme.connect(server.port)
        await esme.wait_for_close()


async def test_the_bind_timer_ends_with_the_bind(limited, cast):
    async with run_smsc(limited(bind_seconds=0.2)) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        idle = await RawEsme.connect(server.port)
        await idle.wait_for_close()
        assert (await esme.submit()).status == 0


async def test_connections_of_one_address_take_turns_and_others_do_not_wait(limited, cast):
    async with run_smsc(limited(unbound_per_address=3)) as server:
        waiting = [await RawEsme.connect(server.port, from_address="127.0.0.9") for _ in range(3)]
        fourth = await RawEsme.connect(server.port, from_address="127.0.0.9")
        fourth.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1))
        await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert len(server.connection_limits.sessions) == 4
        waiting[0].abort()
        assert (await fourth.wait_for_response(1)).status == 0


@pytest.mark.slow
async def test_a_thousand_clients_behind_one_address_come_back_at_once(config, cast, change_account):
    change_account(binds=0)
    async with run_smsc(config) as server:
        for port, tls in ((server.port, None), (server.tls_port, client_context())):
            statuses = await asyncio.gather(*(bind_alone(port, cast.smpp_acme_1, tls) for _ in range(500)))
            assert statuses == [0] * 500


@pytest.mark.slow
async def test_clients_that_connect_again_and_again_in_vain_keep_no_right_one_out(config, cast):
    login, tries, has_bound = cast.smpp_acme_1, 0, False
    limits = replace(DEFAULT_SERVER_LIMITS, failed_unbound_per_minute=120, wrong_bind_seconds=0)

    async def hammer():
        nonlocal tries
        while not has_bound:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await refused(server, login.name, "former")
            tries += 1

    async with run_smsc(config, limits) as server:
        hammering = [asyncio.create_task(hammer()) for _ in range(3)]
        try:
            await wait_until(lambda: tries >= 120)
            await RawEsme.connect_and_bind(server.port, login)
        finally:
            has_bound = True
            await asyncio.gather(*hammering)


async def bind_alone(port, login, tls):
    esme = await RawEsme.connect(port, tls=tls)
    return await esme.bind(login.name, login.password)


def client_context():
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


async def test_a_handshake_that_is_given_up_leaves_nothing_behind(config, cast):
    async with run_smsc(config) as server:
        for _ in range(20):
            strangers = [await RawEsme.connect(server.tls_port) for _ in range(10)]
            for each in strangers:
                each.abort()
        await wait_until(lambda: not server.connection_limits.connection_count)
        await RawEsme.connect_and_bind(server.tls_port, cast.smpp_acme_1, tls=client_context())


async def test_a_handshake_that_is_cancelled_as_it_succeeds_counts_once(config, cast):
    async with run_smsc(config) as server:
        begun, slots = ConnectionSlot.attach_session, []

        def end_at_once(slot, session):
            begun(slot, session)
            slots.append(slot)
            slot.cancel_handshake()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ConnectionSlot, "attach_session", end_at_once)
            with suppress(ConnectionError):
                await (await RawEsme.connect(server.tls_port, tls=client_context())).wait_for_close()
            await wait_until(lambda: not server.connection_limits.connection_count)
        assert slots
        assert not server.connection_limits.sessions
        await RawEsme.connect_and_bind(server.tls_port, cast.smpp_acme_1, tls=client_context())
        await wait_until(lambda: server.connection_limits.connection_count == 1)


async def test_connections_without_a_bind_are_capped_in_all_and_keep_nobody_out(limited, cast):
    async with run_smsc(limited(unbound=2)) as server:
        strangers = [await RawEsme.connect(server.port, from_address=f"127.0.0.{number}") for number in (5, 6)]
        await wait_until(lambda: len(server.connection_limits.sessions) == 2)
        bound = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await strangers[0].wait_for_close()
        assert (await strangers[1].request(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1))).status == 0
        assert (await bound.submit()).status == 0


async def test_a_handshake_that_never_ends_keeps_nobody_out(limited, cast):
    async with run_smsc(limited(unbound=1)) as server:
        stranger = await RawEsme.connect(server.tls_port, from_address="127.0.0.5")
        await wait_until(lambda: server.connection_limits.unbound_slots)
        await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await stranger.wait_for_close()
