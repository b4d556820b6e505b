"""Binding to a carrier, again and again where that fails."""

import asyncio
import itertools
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from portal.core.clock import now_ms
from portal.services.upstreams.binds import BindState
from portal.smsc.admission.tls import create_tls_context, ensure_certificate
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, CommandStatus
from portal.smsc.protocol.pdu import BindResp, DeliverSm, HeaderOnlyPdu
from portal.smsc.upstream.smpp_client.client_session import ClientSettings
from portal.smsc.upstream.smpp_client.connector import BindStatus
from tests.smsc.esme import DEADLINE_S, wait_until
from tests.smsc.upstream.smpp_client.carrier import (
    Carrier,
    run_bound_client,
    run_carrier,
    run_client,
    submit_all,
)
from tests.support import find_free_port


async def test_it_binds_as_it_is_set():
    settings = {
        "system_id": "me",
        "password": "12345678",
        "system_type": "vma",
        "interface_version": 0x33,
        "address_ton": 1,
        "address_npi": 2,
        "address_range": "^39",
    }
    async with run_carrier() as carrier, run_client(carrier.port, **settings) as (client, reports):
        connection = await carrier.wait_for_connection()
        bind = await connection.accept_bind()
        assert bind.command == CommandId.BIND_TRANSCEIVER
        assert (bind.system_id, bind.password, bind.system_type) == ("me", "12345678", "vma")
        assert (bind.interface_version, bind.addr_ton, bind.addr_npi, bind.address_range) == (0x33, 1, 2, "^39")
        await reports.wait_for_state(BindStatus.BOUND)
        assert [(each.number, each.kind, each.state) for each in client.bind_states] == [(1, "trx", "bound")]


async def test_pairs_send_on_the_one_and_receive_on_the_other():
    async with run_carrier() as carrier, run_client(carrier.port, bind="tx+rx", binds=2) as (client, reports):
        connections = await carrier.accept_all(4)
        transmitters, receivers = connections[CommandId.BIND_TRANSMITTER], connections[CommandId.BIND_RECEIVER]
        assert (len(transmitters), len(receivers)) == (2, 2)
        await reports.wait_for(lambda: all(each.state == BindStatus.BOUND for each in client.bind_states))
        assert [each.kind for each in client.bind_states] == ["tx", "rx", "tx", "rx"]
        assert client.room == 20
        submit_all(client, range(20))
        for each in transmitters:
            await each.read_submits(10)
        for each in receivers:
            each.send(DeliverSm(7, source="1", destination="2"))
            assert (await each.wait_for_response(7)).status == 0
        transmitters[0].send(DeliverSm(8, source="1", destination="2"))
        assert (await transmitters[0].wait_for_response(8)).status == CommandStatus.ESME_RINVBNDSTS
        assert len(reports.deliveries) == 2


async def test_a_refusal_is_told_and_it_tries_again_more_slowly():
    began_at = now_ms()
    async with run_carrier() as carrier, run_client(carrier.port) as (client, reports):
        await carrier.accept(CommandStatus.ESME_RINVPASWD)
        refused = await reports.wait_for_state(BindStatus.REFUSED)
        refused_at = asyncio.get_running_loop().time()
        assert refused.status == CommandStatus.ESME_RINVPASWD
        assert refused.error == "the carrier refuses the bind with ESME_RINVPASWD 0x0E"
        # In twice 0.05 s, a quarter more or less.
        assert refused.next_attempt_at >= began_at + 75
        assert client.room == 0
        await carrier.accept()
        # Twice as long as otherwise, but for what chance takes off.
        assert asyncio.get_running_loop().time() - refused_at > 1.5 * 0.05
        bound = await reports.wait_for_state(BindStatus.BOUND)
        assert (bound.error, bound.status, bound.next_attempt_at) == ("", 0, 0)


async def test_while_the_carrier_refuses_one_bind_alone_is_tried():
    async with run_carrier() as carrier, run_client(carrier.port, binds=5) as (client, reports):
        for _ in range(3):
            await carrier.accept(CommandStatus.ESME_RINVPASWD)
            await reports.wait_for_state(BindStatus.REFUSED)
        assert {each.number for each in reports.states if each.state != BindStatus.CONNECTING} <= {1}
        assert [each.state for each in client.bind_states] == ["refused"] + ["connecting"] * 4
        await carrier.accept_all(5)
        await reports.wait_for(lambda: all(each.state == BindStatus.BOUND for each in client.bind_states))


async def test_one_that_was_bound_waits_for_none_that_is_refused():
    async with run_carrier() as carrier, run_client(carrier.port, binds=3, reconnect_seconds=0.5) as (_, reports):
        connection = await carrier.accept()
        await reports.wait_for_state(BindStatus.BOUND)
        for _ in range(2):
            await carrier.accept(CommandStatus.ESME_RBINDFAIL)
        for number in (2, 3):
            await reports.wait_for_state(BindStatus.REFUSED, number)
        connection.abort()
        # The pause of the others is twice as long.
        await carrier.accept()
        await reports.wait_for_state(BindStatus.BOUND)
        await carrier.accept_all(2)


async def test_a_receiver_waits_for_no_transmitter_that_is_refused():
    async with (
        run_carrier() as carrier,
        run_client(carrier.port, bind="tx+rx", reconnect_seconds=60) as (
            client,
            reports,
        ),
    ):
        for _ in range(2):
            connection = await carrier.wait_for_connection()
            bind = await connection.read_bind()
            status = CommandStatus.ESME_RBINDFAIL if bind.command == CommandId.BIND_TRANSMITTER else 0
            connection.send(BindResp(bind.command | RESPONSE_BIT, bind.sequence, status))
        await reports.wait_for(lambda: [each.state for each in client.bind_states] == ["refused", "bound"])


async def test_where_one_fails_without_a_refusal_all_are_tried():
    async with run_carrier() as carrier, run_client(carrier.port, binds=3, reconnect_seconds=60) as (_, reports):
        (await carrier.wait_for_connection()).abort()
        await carrier.accept(CommandStatus.ESME_RALYBND)
        await carrier.accept()
        await reports.wait_for(lambda: {"bound", "refused", "unbound"} <= {each.state for each in reports.states})


@pytest.mark.parametrize(
    ("sequence", "status", "told"),
    [
        (1, CommandStatus.ESME_RINVCMDID, CommandStatus.ESME_RINVCMDID),
        (1, 0, CommandStatus.ESME_RUNKNOWNERR),
        # That of a PDU whose header could not be read (4.3).
        (0, CommandStatus.ESME_RINVCMDLEN, CommandStatus.ESME_RINVCMDLEN),
    ],
)
async def test_generic_nack_refuses_a_bind(sequence, status, told):
    async with run_carrier() as carrier, run_client(carrier.port) as (_, reports):
        connection = await carrier.wait_for_connection()
        await connection.read_bind()
        connection.send(HeaderOnlyPdu(CommandId.GENERIC_NACK, sequence, status))
        assert (await reports.wait_for_state(BindStatus.REFUSED)).status == told


async def test_it_waits_for_a_carrier_that_is_not_there():
    port = find_free_port()
    async with run_carrier() as carrier, run_client(port) as (_, reports):
        carrier.stop()
        state = await reports.wait_for_state(BindStatus.UNBOUND)
        assert state.error == f"no connection to 127.0.0.1 port {port}: Connection refused"
        carrier.port = port
        await carrier.start()
        await carrier.accept()
        await reports.wait_for_state(BindStatus.BOUND)


async def test_a_name_that_does_not_exist_is_told():
    async with run_client(1, host="carrier.invalid") as (_, reports):
        assert (await reports.wait_for_state(BindStatus.UNBOUND)).error.startswith("no connection to carrier.invalid")


async def test_a_bind_that_is_not_answered_is_given_up():
    async with run_carrier() as carrier, run_client(carrier.port, bind_seconds=0.05) as (_, reports):
        connection = await carrier.wait_for_connection()
        state = await reports.wait_for_state(BindStatus.UNBOUND)
        assert state.error == "the carrier has not answered the bind"
        await connection.wait_for_close()
        await carrier.accept()
        await reports.wait_for_state(BindStatus.BOUND)


async def test_another_answer_than_that_to_the_bind_is_none(caplog):
    caplog.set_level("INFO")
    async with run_carrier() as carrier, run_client(carrier.port) as (_, reports):
        connection = await carrier.wait_for_connection()
        bind = await connection.read_bind()
        connection.send(DeliverSm(5, source="1", destination="2"))
        assert (await connection.wait_for_response(5)).status == CommandStatus.ESME_RINVBNDSTS
        assert "a message or receipt before the bind" in caplog.text
        connection.send(BindResp(CommandId.BIND_RECEIVER_RESP, bind.sequence))
        state = await reports.wait_for_state(BindStatus.UNBOUND)
        assert state.error == "the carrier has answered the bind with command_id 0x80000001"
        assert not reports.deliveries


async def test_what_is_too_long_for_smpp_is_told_without_the_password():
    async with run_client(1, password="much too long") as (client, reports):
        state = await reports.wait_for_state(BindStatus.UNBOUND)
        assert "too long for SMPP" in state.error
        assert "much" not in state.error
        assert "secret" not in repr(client)


async def test_it_comes_back_after_a_loss_and_another():
    async with run_bound_client() as (_, reports, connection, carrier):
        for _ in range(3):
            connection.abort()
            state = await reports.wait_for_state(BindStatus.UNBOUND)
            assert state.error.startswith(("the connection was lost", "the carrier has closed"))
            connection = await carrier.accept()
            await reports.wait_for_state(BindStatus.BOUND)


async def test_pauses_grow_while_it_fails():
    loop = asyncio.get_running_loop()
    async with run_carrier() as carrier, run_client(carrier.port, reconnect_seconds=0.1) as (client, reports):
        tried_at = []
        for _ in range(5):
            connection = await carrier.wait_for_connection()
            tried_at.append(loop.time())
            connection.abort()
        pauses = [after - before for before, after in itertools.pairwise(tried_at)]
        # 1, 2, 4 and 6 times 0.1 s, each a quarter more or less, and as it is seen here.
        assert pauses[2] > 0.2
        assert pauses[3] > 0.3
        (unbound,) = [each for each in reports.states if each.state == BindStatus.UNBOUND][:1]
        assert client.bind_states[0].since == unbound.since


@pytest.mark.parametrize(("held_seconds", "pause_seconds"), [(50, 60), (70, 6)])
async def test_after_one_that_has_held_it_comes_back_soon(held_seconds, pause_seconds):
    async with run_bound_client(reconnect_seconds=60) as (client, reports, connection, _):
        client.sessions[0].bound_at -= held_seconds
        since = now_ms()
        connection.abort()
        pause = (await reports.wait_for_state(BindStatus.UNBOUND)).next_attempt_at - since
        # A quarter more or less, and what a busy machine adds.
        assert 0.75 * pause_seconds * 1000 <= pause <= (1.25 * pause_seconds + DEADLINE_S) * 1000


async def test_since_when_it_is_bound_or_not():
    async with run_carrier() as carrier, run_client(carrier.port) as (_, reports):
        (connecting,) = reports.states
        assert connecting.state == BindStatus.CONNECTING
        await carrier.accept(CommandStatus.ESME_RALYBND)
        refused = await reports.wait_for_state(BindStatus.REFUSED)
        connection = await carrier.accept()
        bound = await reports.wait_for_state(BindStatus.BOUND)
        connection.abort()
        unbound = await reports.wait_for_state(BindStatus.UNBOUND)
        assert connecting.since == refused.since < bound.since <= unbound.since


async def test_closing_unbinds():
    async with run_bound_client() as (client, reports, connection, _):
        closing = asyncio.create_task(client.close())
        await connection.answer_unbind()
        await closing
        assert reports.states[-1].state == BindStatus.CLOSED
        assert client.room == 0


async def test_a_carrier_that_unbinds_again_and_again_does_not_put_the_end_off():
    async with run_bound_client() as (client, reports, connection, _):
        submit_all(client, [1])
        await connection.read_submit()
        (session,) = client.sessions
        closing = asyncio.create_task(client.close(0.3))
        await wait_until(lambda: not session.is_bound)
        async with asyncio.timeout(DEADLINE_S / 2):
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                for sequence in itertools.count(1):
                    connection.send(
                        HeaderOnlyPdu(CommandId.UNBIND, sequence), HeaderOnlyPdu(CommandId.ENQUIRE_LINK, sequence)
                    )
                    await connection.wait_for_pdu(CommandId.ENQUIRE_LINK_RESP)
            await closing
        assert reports.unsure == [1]


async def test_closing_before_the_bind_is_answered():
    async with run_carrier() as carrier, run_client(carrier.port) as (client, _):
        connection = await carrier.wait_for_connection()
        await connection.read_bind()
        await client.close()
        await connection.wait_for_close()


@pytest.mark.parametrize("tls", [False, True])
async def test_closing_at_any_moment_of_connecting(server_tls, tls):
    async with run_carrier(server_tls if tls else None) as carrier:
        for turns in range(60):
            async with run_client(carrier.port, tls=tls, tls_verify=False) as (client, _):
                for _ in range(turns):
                    await asyncio.sleep(0)
                await client.close()


async def test_closing_while_nobody_listens():
    async with run_client(find_free_port(), reconnect_seconds=60) as (client, reports):
        await reports.wait_for_state(BindStatus.UNBOUND)
        await client.close()
        assert client.bind_states[0].state == BindStatus.CLOSED


# --- TLS


@pytest.fixture
def server_tls(tmp_path):
    return create_tls_context(*ensure_certificate(tmp_path, "smpp.carrier.example"), "1.3")


async def test_tls_with_the_name_in_the_certificate(tmp_path, server_tls):
    asked_names = []
    server_tls.sni_callback = lambda _, name, __: asked_names.append(name)
    settings = {"tls": True, "tls_ca_file": f"{tmp_path}/smpp.crt", "tls_server_name": "smpp.carrier.example"}
    async with run_carrier(server_tls) as carrier, run_client(carrier.port, **settings) as (_, reports):
        connection = await carrier.accept()
        await reports.wait_for_state(BindStatus.BOUND)
        assert asked_names == ["smpp.carrier.example"]
        assert connection.writer.get_extra_info("ssl_object").version() == "TLSv1.3"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({}, "no authority that is believed has signed its certificate (self-signed certificate)"),
        ({"tls_ca_file": "{folder}/smpp.crt"}, "its certificate is of another name (IP address mismatch, "),
        ({"tls_ca_file": "{folder}/none.crt"}, "CA file {folder}/none.crt: No such file or directory"),
        ({"tls_ca_file": "{folder}/smpp.key"}, "CA file {folder}/smpp.key: no certificate in PEM is in it"),
    ],
)
async def test_tls_that_is_not_trusted(tmp_path, server_tls, settings, error):
    settings = {name: value.format(folder=tmp_path) for name, value in settings.items()}
    async with run_carrier(server_tls) as carrier, run_client(carrier.port, tls=True, **settings) as (_, reports):
        assert error.format(folder=tmp_path) in (await reports.wait_for_state(BindStatus.UNBOUND)).error


async def test_tls_that_need_not_be_trusted(server_tls):
    async with run_carrier(server_tls) as carrier, run_client(carrier.port, tls=True, tls_verify=False) as (_, reports):
        await carrier.accept()
        await reports.wait_for_state(BindStatus.BOUND)


async def test_a_connection_that_does_not_come_about_is_given_up():
    async with run_carrier() as carrier, run_client(carrier.port, tls=True, connect_seconds=0.1) as (_, reports):
        # It never says a word of the handshake.
        connection = await carrier.wait_for_connection()
        state = await reports.wait_for_state(BindStatus.UNBOUND)
        assert state.error == f"no connection to 127.0.0.1 port {carrier.port} in 0.1 s"
        await connection.wait_for_close()
        await carrier.wait_for_connection()


async def test_tls_to_a_port_without_it():
    async with run_carrier() as carrier, run_client(carrier.port, tls=True, tls_verify=False) as (_, reports):
        connection = await carrier.wait_for_connection()
        connection.send_octets(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        assert (await reports.wait_for_state(BindStatus.UNBOUND)).error.endswith(": it doesn't speak TLS")


async def test_a_second_host_is_tried_where_the_first_cannot_be_reached():
    first = Carrier()
    first.port = find_free_port()
    hosts = {"second_host": "localhost"}
    async with run_carrier() as second, run_client(first.port, second_port=second.port, **hosts) as (_, reports):
        connection = await second.accept()
        assert (await reports.wait_for_state(BindStatus.BOUND)).host == f"localhost:{second.port}"
        await first.start()
        await connection.close()
        assert (await reports.wait_for_state(BindStatus.UNBOUND)).host == ""
        await first.accept()
        assert (await reports.wait_for_state(BindStatus.BOUND)).host == f"127.0.0.1:{first.port}"
        first.stop()


async def test_another_address_of_the_host_is_tried_where_the_first_is_silent(monkeypatch):
    async with run_carrier() as carrier:
        # Its backlog is full: it answers nobody who connects.
        silent = socket.create_server(("127.0.0.2", carrier.port), backlog=0)
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(silent.getsockname())
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{each}", 0)) for each in (2, 1)]
        monkeypatch.setattr("portal.smsc.upstream.smpp_client.connector.socket.getaddrinfo", lambda *_, **__: found)
        async with run_client(carrier.port, host="carrier.example", connect_seconds=0.2) as (_, reports):
            await carrier.accept()
            await reports.wait_for_state(BindStatus.BOUND)
        for each in (silent, *waiting):
            each.close()


async def test_a_thread_that_cannot_be_started_costs_one_try(monkeypatch):
    start, failures = threading.Thread.start, iter([RuntimeError("can't start new thread")])

    def fail_once(thread: threading.Thread) -> None:
        for each in failures:
            raise each
        start(thread)

    async with run_carrier() as carrier:
        monkeypatch.setattr(threading.Thread, "start", fail_once)
        async with run_client(carrier.port, host="localhost") as (_, reports):
            await carrier.accept()
            await reports.wait_for_state(BindStatus.BOUND)


async def test_an_unexpected_error_is_logged_and_ends_no_bind(caplog):
    # No text, as nothing else should be there.
    async with run_carrier() as carrier, run_client(carrier.port, system_id=5) as (client, reports):
        state = await reports.wait_for_state(BindStatus.UNBOUND)
        assert state.error == "no connection, for an error in this program: AttributeError"
        assert "bind 1 is tried again, after\nTraceback" in caplog.text
        client.change_settings(ClientSettings("127.0.0.1", carrier.port))
        await carrier.accept()
        await reports.wait_for_state(BindStatus.BOUND)


async def test_a_state_that_is_not_taken_up_ends_no_bind(monkeypatch, caplog):
    def fail(_state: BindState) -> None:
        raise ZeroDivisionError

    async with run_bound_client() as (_, reports, connection, carrier):
        with monkeypatch.context() as patched:
            patched.setattr(reports, "state_changed", fail)
            connection.abort()
            connection = await carrier.accept()
            await wait_until(lambda: "ZeroDivisionError" in caplog.text)
        connection.abort()
        await carrier.accept()
        await reports.wait_for_state(BindStatus.BOUND)


async def test_a_connection_whose_end_is_not_taken_up_comes_back(monkeypatch):
    def fail(*_lost: Sequence[int]) -> None:
        raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    async with run_bound_client() as (client, reports, connection, carrier):
        raised: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: raised.append(context))
        submit_all(client, [1])
        await connection.read_submit()
        with monkeypatch.context() as patched:
            patched.setattr(reports, "submits_lost", fail)
            connection.abort()
            await carrier.accept()
        await reports.wait_for_state(BindStatus.BOUND)
        assert [type(each["exception"]) for each in raised] == [ZeroDivisionError]


async def test_a_second_host_is_tried_where_the_first_refuses_the_bind():
    async with (
        run_carrier() as first,
        run_carrier() as second,
        run_client(first.port, second_host="localhost", second_port=second.port) as (_, reports),
    ):
        for carrier in (first, second, first):
            await carrier.accept(CommandStatus.ESME_RSYSERR)
        await second.accept()
        assert (await reports.wait_for_state(BindStatus.BOUND)).host == f"localhost:{second.port}"


async def test_why_neither_host_can_be_reached_is_told():
    port, other_port = find_free_port(), find_free_port()
    async with run_client(port, second_host="localhost", second_port=other_port) as (_, reports):
        error = (await reports.wait_for_state(BindStatus.UNBOUND)).error
        assert error == (
            f"no connection to 127.0.0.1 port {port}: Connection refused;"
            f" no connection to localhost port {other_port}: Connection refused"
        )
