"""Other settings while it is connected, or tries to."""

import asyncio
from dataclasses import replace

import pytest

from portal.services.upstreams.settings import RULES
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import HeaderOnlyPdu
from portal.smsc.upstream.smpp_client.client_session import ClientSettings
from portal.smsc.upstream.smpp_client.connector import BindStatus
from tests.smsc.upstream.smpp_client.carrier import (
    Carrier,
    Reports,
    run_bound_client,
    run_carrier,
    run_client,
    submit_all,
)


def settings_for(port, **values):
    return ClientSettings(
        **{
            "host": "127.0.0.1",
            "port": port,
            "system_id": "portal",
            "password": "secret",
            "reconnect_seconds": 60,
            **values,
        }
    )


async def test_window_and_throughput_hold_at_once():
    async with run_bound_client(reconnect_seconds=60) as (client, reports, connection, carrier):
        submit_all(client, range(4))
        client.change_settings(settings_for(carrier.port, window=6))
        assert client.room == 2
        client.change_settings(settings_for(carrier.port, window=2, throughput=100))
        assert client.room == 0
        assert client.rate == 100
        for each in await connection.read_submits(4):
            connection.answer(each)
        await reports.wait_for(lambda: len(reports.answers) == 4 and client.room == 2)
        assert reports.states == []


async def test_a_change_is_not_why_a_connection_that_is_lost_later_comes_back_at_once():
    async with run_carrier() as carrier, run_client(carrier.port, reconnect_seconds=60) as (client, reports):
        connection = await carrier.wait_for_connection()
        client.change_settings(settings_for(carrier.port, window=6))
        await connection.accept_bind()
        await reports.wait_for_state(BindStatus.BOUND)
        client.change_settings(settings_for(carrier.port, window=7))
        connection.abort()
        await reports.wait_for_state(BindStatus.UNBOUND)
        client.change_settings(settings_for(carrier.port, password="other"))
        again = await carrier.wait_for_connection()
        assert (await again.accept_bind()).password == "other"


async def test_another_password_is_for_another_connection():
    async with run_bound_client() as (client, reports, connection, carrier):
        submit_all(client, [1])
        submit = await connection.read_submit()
        client.change_settings(settings_for(carrier.port, password="other"))
        connection.answer(submit)
        await connection.answer_unbind()
        again = await carrier.wait_for_connection()
        assert (await again.accept_bind()).password == "other"
        await reports.wait_for_state(BindStatus.BOUND)
        assert (reports.answers, reports.unsure) == ([(1, 0, "id of 1")], [])


async def test_a_refused_bind_is_tried_at_once_with_the_right_password():
    async with run_carrier() as carrier, run_client(carrier.port, reconnect_seconds=60) as (client, reports):
        await carrier.accept(CommandStatus.ESME_RINVPASWD)
        await reports.wait_for_state(BindStatus.REFUSED)
        client.change_settings(settings_for(carrier.port, password="right"))
        connection = await carrier.wait_for_connection()
        assert (await connection.accept_bind()).password == "right"
        await reports.wait_for_state(BindStatus.BOUND)


async def test_more_binds_and_fewer():
    async with run_bound_client() as (client, reports, connection, carrier):
        client.change_settings(settings_for(carrier.port, binds=2))
        other = await carrier.accept()
        await reports.wait_for_state(BindStatus.BOUND, 2)
        client.change_settings(settings_for(carrier.port, binds=1))
        await other.answer_unbind()
        await reports.wait_for_state(BindStatus.CLOSED, 2)
        assert [each.number for each in client.bind_states] == [1]
        assert client.room == 10
        submit_all(client, [1])
        await connection.read_submit()


async def test_others_are_bound_once_those_before_have_ended():
    async with run_bound_client() as (client, reports, connection, carrier):
        submit_all(client, [1])
        submit = await connection.read_submit()
        client.change_settings(settings_for(carrier.port, bind="tx+rx"))
        new = asyncio.create_task(carrier.wait_for_connection())
        for sequence in range(1, 6):
            connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, sequence))
            await connection.wait_for_response(sequence)
        connection.answer(submit)
        await connection.wait_for_pdu(CommandId.UNBIND)
        assert not new.done()
        connection.abort()
        await (await new).accept_bind()
        await carrier.accept()
        assert reports.unsure == []


async def test_another_kind_of_binds():
    async with run_bound_client() as (client, reports, connection, carrier):
        client.change_settings(settings_for(carrier.port, bind="tx+rx"))
        await connection.answer_unbind()
        connections = await carrier.accept_all(2)
        assert [len(connections[each]) for each in (CommandId.BIND_TRANSMITTER, CommandId.BIND_RECEIVER)] == [1, 1]
        await reports.wait_for_state(BindStatus.BOUND, 2)
        assert [each.kind for each in client.bind_states] == ["tx", "rx"]
        assert BindStatus.CLOSED not in [each.state for each in reports.states]


@pytest.mark.parametrize("others", [{}, {"second_host": "localhost", "second_port": 1}])
async def test_a_bind_to_a_second_host_that_is_no_more_ends(others):
    async with run_carrier() as first, run_carrier() as second:
        first.stop()
        async with run_client(first.port, second_host="localhost", second_port=second.port) as (client, reports):
            connection = await second.accept()
            await reports.wait_for_state(BindStatus.BOUND)
            await first.start()
            client.change_settings(settings_for(first.port, **others))
            await connection.answer_unbind()
            await first.accept()
            await reports.wait_for_state(BindStatus.BOUND)


async def test_a_bind_to_a_host_that_stays_goes_on():
    async with run_bound_client(second_host="localhost", second_port=1) as (client, reports, connection, carrier):
        client.change_settings(settings_for(carrier.port))
        client.change_settings(settings_for(1, host="localhost", second_host="127.0.0.1", second_port=carrier.port))
        connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 4242))
        assert (await connection.read_response()).sequence == 4242
        assert reports.states == []


async def test_other_binds_wait_for_none_that_was_refused_and_is_no_more():
    async with run_carrier() as carrier, run_client(carrier.port, reconnect_seconds=60) as (client, reports):
        await carrier.accept(CommandStatus.ESME_RINVPASWD)
        await reports.wait_for_state(BindStatus.REFUSED)
        client.change_settings(settings_for(carrier.port, bind="tx+rx"))
        await carrier.accept_all(2)


async def refuse_binds(carrier: Carrier, reports: Reports, count: int) -> set[int]:
    """Refuse the next binds; returns their numbers."""
    for _ in range(count):
        await carrier.accept(CommandStatus.ESME_RINVPASWD)
    await reports.wait_for(lambda: [each.state for each in reports.states].count(BindStatus.REFUSED) == count)
    return {each.number for each in reports.states if each.state == BindStatus.REFUSED}


async def test_another_kind_of_binds_with_another_password_is_tried_by_one_of_each():
    async with run_carrier() as carrier, run_client(carrier.port, binds=3) as (client, reports):
        connections = await carrier.accept_all(3)
        await reports.wait_for(lambda: len(client.sessions) == 3)
        client.change_settings(
            settings_for(carrier.port, bind="tx+rx", binds=3, password="other", reconnect_seconds=0.05)
        )
        for each in connections[CommandId.BIND_TRANSCEIVER]:
            await each.answer_unbind()
        assert await refuse_binds(carrier, reports, 4) == {1, 2}


async def test_a_bind_that_other_settings_interrupt_lets_no_others_try():
    async with run_carrier() as carrier, run_client(carrier.port, binds=3) as (client, reports):
        connection = await carrier.wait_for_connection()
        await connection.read_bind()
        client.change_settings(settings_for(carrier.port, binds=3, password="other", reconnect_seconds=0.05))
        assert await refuse_binds(carrier, reports, 3) == {1}


async def test_another_password_is_tried_by_one_bind_alone():
    async with run_carrier() as carrier, run_client(carrier.port, binds=3) as (client, reports):
        connections = await carrier.accept_all(3)
        await reports.wait_for(lambda: len(client.sessions) == 3)
        client.change_settings(settings_for(carrier.port, binds=3, password="other"))
        for each in connections[CommandId.BIND_TRANSCEIVER]:
            await each.answer_unbind()
        await carrier.accept(CommandStatus.ESME_RINVPASWD)
        await reports.wait_for(lambda: "refused" in [each.state for each in reports.states])
        client.change_settings(settings_for(carrier.port, binds=3, password="right"))
        for _ in range(3):
            assert (await (await carrier.wait_for_connection()).accept_bind()).password == "right"


# What the bind says, and TLS.
CONNECTION_SETTINGS = set(
    "system_id password system_type interface_version address_ton address_npi address_range tls tls_verify"
    " tls_ca_file tls_server_name tls_certificate tls_key tls_minimum".split()
)


@pytest.mark.parametrize("name", sorted({*RULES, "password"} - {"host", "port", "second_host", "second_port"}))
def test_only_what_the_bind_says_and_tls_need_another_connection(name):
    settings = settings_for(2775)
    value = getattr(settings, name)
    other = not value if isinstance(value, bool) else f"{value}1" if isinstance(value, str) else (value or 0) + 1
    changed = replace(settings, **{name: other})
    assert settings.needs_other_connection(changed, ("127.0.0.1", 2775)) == (name in CONNECTION_SETTINGS)
