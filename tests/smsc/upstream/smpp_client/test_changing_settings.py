"""Other settings while it is connected, or tries to."""

from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.upstream.smpp_client.interface import BindStatus, ClientSettings
from tests.smsc.upstream.smpp_client.carrier import run_bound_client, run_carrier, run_client, submit_all


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


async def test_another_kind_of_binds():
    async with run_bound_client() as (client, reports, connection, carrier):
        client.change_settings(settings_for(carrier.port, bind="tx+rx"))
        await connection.answer_unbind()
        connections = await carrier.accept_all(2)
        assert [len(connections[each]) for each in (CommandId.BIND_TRANSMITTER, CommandId.BIND_RECEIVER)] == [1, 1]
        await reports.wait_for_state(BindStatus.BOUND, 2)
        assert [each.kind for each in client.bind_states] == ["tx", "rx"]
        assert BindStatus.CLOSED not in [each.state for each in reports.states]
