"""`upstream test`: what it says of carriers that are as they should be, and of those that aren't."""

import asyncio
import errno
import json
import signal
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from portal.cli.connection_test import run_connection_test
from portal.services.accounts import session_records
from portal.services.upstreams import binds, upstreams
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.settings import UpstreamSettings, format_settings
from portal.smsc.admission.tls import create_tls_context, ensure_certificate
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import DeliverSm, HeaderOnlyPdu
from tests.smsc.upstream.smpp_client.carrier import Carrier, CarrierConnection, run_carrier
from tests.smsc.upstream.smpp_client.tls_carrier import SERVER_NAME, Authority, run_tls_carrier
from tests.support import DEADLINE_S, find_free_port

Play = Callable[[Carrier], Awaitable[None]]


@contextmanager
def carrier_in_a_thread(play: Play, tls: ssl.SSLContext | None = None) -> Iterator[Carrier]:
    """A carrier beside the command, which has an event loop of its own. What `play` raises is raised here."""
    started: list[Carrier] = []
    failures: list[BaseException] = []
    ready, over = threading.Event(), threading.Event()

    async def run() -> None:
        async with run_carrier(tls) as carrier:
            started.append(carrier)
            ready.set()
            await play(carrier)
            await asyncio.to_thread(over.wait, DEADLINE_S)

    def run_in_thread() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run_in_thread)
    thread.start()
    ready.wait(DEADLINE_S)
    try:
        yield started[0]
    finally:
        over.set()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert not failures, failures


async def take_part(connection: CarrierConnection) -> None:
    """Do what a carrier does after the bind: answer enquire_link, then unbind."""
    enquire_link = await connection.wait_for_pdu(CommandId.ENQUIRE_LINK)
    connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK_RESP, enquire_link.sequence))
    await connection.answer_unbind()


async def take_one_bind(carrier: Carrier) -> None:
    await take_part(await carrier.accept())


@pytest.fixture
def add(ok):
    """Adds the upstream."""

    def add_upstream(port: int, *options: object, host: str = "127.0.0.1") -> None:
        ok(
            "upstream",
            "add",
            "carrier",
            *("--host", host, "--port", port, "--system-id", "acme", "--password-stdin"),
            *options,
            stdin="secret",
        )

    return add_upstream


@pytest.fixture
def failed(run_app):
    """Runs the test, which must fail; returns the step, what is said of it, and the line on stderr."""

    def run() -> tuple[str, str, str]:
        done = run_app("upstream", "test", "carrier")
        assert done.returncode == 1
        *passed, last = done.stdout.splitlines()
        assert all(" ok " in line for line in passed)
        step, word, detail = last.split(maxsplit=2)
        assert word == "FAILED"
        assert done.stderr.startswith(f"carrier: {step} failed")
        assert done.stderr.count("\n") == 1
        return step, detail, done.stderr

    return run


def test_each_step_that_works_is_told(ok, run_app, add, conn):
    with carrier_in_a_thread(take_one_bind) as carrier:
        add(carrier.port, host="localhost")
        tested = ok("upstream", "test", "carrier")
    query = "SELECT details FROM audit_log WHERE action = 'upstream.test' AND actor = 'shell'"
    (details,) = [json.loads(row[0]) for row in conn.execute(query)]
    assert (details["host"], details["port"], details["with_stored_password"]) == ("localhost", carrier.port, True)
    assert (tested["name"], tested["ok"]) == ("carrier", True)
    steps = {each["step"]: each["detail"] for each in tested["steps"]}
    assert [*steps] == ["resolve", "connect", "bind", "enquire_link", "unbind"]
    assert all(each["ok"] for each in tested["steps"])
    assert "127.0.0.1" in steps["resolve"]
    assert steps["bind"].startswith("transceiver, as acme, in ")
    assert steps["unbind"] == "done"


def test_both_hosts_are_tested_and_told(ok, run_app, add):
    async def take_two(carrier: Carrier) -> None:
        await take_one_bind(carrier)
        await take_one_bind(carrier)

    with carrier_in_a_thread(take_two) as carrier:
        add(carrier.port, "--second-host", "localhost")
        tested = ok("upstream", "test", "carrier")
    assert tested["ok"]
    assert [(each["host"], each["step"]) for each in tested["steps"]] == [
        *((f"127.0.0.1:{carrier.port}", each) for each in ("connect", "bind", "enquire_link", "unbind")),
        *((f"localhost:{carrier.port}", each) for each in ("resolve", "connect", "bind", "enquire_link", "unbind")),
    ]


@pytest.mark.parametrize("failing", ["host", "second_host", "both"])
def test_a_host_that_fails_is_told_beside_one_that_works(run_app, add, failing):
    port = find_free_port()
    with ExitStack() as carriers:
        works = port if failing == "both" else carriers.enter_context(carrier_in_a_thread(take_one_bind)).port
        first, second = (works, port) if failing == "second_host" else (port, works)
        add(first, "--second-host", "127.0.0.2" if failing == "both" else "127.0.0.1", "--second-port", second)
        done = run_app("upstream", "test", "carrier")
    assert done.returncode == 1
    if failing == "both":
        assert done.stderr == f"carrier: connect failed at 127.0.0.1:{port}, and connect failed at 127.0.0.2:{port}\n"
        return
    assert done.stderr == (
        f"carrier: connect failed at 127.0.0.1:{port}; the server can bind to the other host alone\n"
    )
    blocks = dict(each.split("\n", 1) for each in done.stdout.rstrip().split("\n\n"))
    assert [*blocks] == [f"127.0.0.1:{first}", f"127.0.0.1:{second}"]
    assert blocks[f"127.0.0.1:{works}"].count(" ok ") == 4
    option = "--second-port" if failing == "second_host" else "--port"
    assert f"refuses the connection: compare {option} with" in blocks[f"127.0.0.1:{port}"]


def test_pairs_are_tested_one_after_the_other(run_app, add):
    commands = []

    async def take_two(carrier: Carrier) -> None:
        for _ in range(2):
            connection = await carrier.wait_for_connection()
            commands.append((await connection.accept_bind()).command)
            await take_part(connection)

    with carrier_in_a_thread(take_two) as carrier:
        add(carrier.port, "--bind", "tx+rx", "--binds", "3")
        done = run_app("upstream", "test", "carrier")
    assert (done.returncode, done.stderr) == (0, "")
    assert commands == [CommandId.BIND_TRANSMITTER, CommandId.BIND_RECEIVER]
    assert "bind          ok      transmitter, as acme" in done.stdout
    assert "bind          ok      receiver, as acme" in done.stdout


def test_what_the_carrier_sends_meanwhile_is_left_to_the_server(ok, add):
    answers = []

    async def send_a_receipt(carrier: Carrier) -> None:
        connection = await carrier.accept()
        connection.send(DeliverSm(7, source="1", destination="2"))
        answers.append((await connection.wait_for_response(7)).status)
        await take_part(connection)

    with carrier_in_a_thread(send_a_receipt) as carrier:
        add(carrier.port)
        unbind = ok("upstream", "test", "carrier")["steps"][-1]
    assert answers == [CommandStatus.ESME_RX_T_APPN]
    assert "sent meanwhile (1) was answered with ESME_RX_T_APPN" in unbind["detail"]


def test_a_real_server_binds_it(ok, serve_alone, cast):
    # It is its own carrier, and binds with itself as well.
    ok("account", "change", cast.smpp_acme_1.name, "--binds", "2")
    server = serve_alone("smsc")
    ok(
        *("upstream", "add", "carrier", "--host", "127.0.0.1", "--port", server.tls_port, "--tls", "--no-tls-verify"),
        *("--system-id", cast.smpp_acme_1.name, "--password-stdin"),
        stdin=cast.smpp_acme_1.password,
    )
    tested = ok("upstream", "test", "carrier")
    assert [each["step"] for each in tested["steps"]] == ["connect", "tls", "bind", "enquire_link", "unbind"]
    assert tested["steps"][1]["detail"].startswith("TLSv1.3 in ")
    assert "wasn't looked at" in tested["steps"][1]["detail"]
    assert tested["steps"][-1]["detail"] == "done"


@pytest.mark.parametrize(
    ("status", "name", "remedy"),
    [
        (CommandStatus.ESME_RINVPASWD, "ESME_RINVPASWD 0x0E", "upstream change carrier --password-stdin"),
        (CommandStatus.ESME_RINVSYSID, "ESME_RINVSYSID 0x0F", "--system-id"),
        (CommandStatus.ESME_RBINDFAIL, "ESME_RBINDFAIL 0x0D", "this machine's address"),
        (CommandStatus.ESME_RALYBND, "ESME_RALYBND 0x05", "upstream disable carrier"),
        (0x77, "0x77", "ask the carrier"),
    ],
)
def test_a_refused_bind_is_told_with_what_it_usually_means(add, failed, status, name, remedy):
    async def refuse(carrier: Carrier) -> None:
        await (await carrier.accept(status)).wait_for_close()

    with carrier_in_a_thread(refuse) as carrier:
        add(carrier.port)
        step, detail, _ = failed()
    assert step == "bind"
    assert f"refuses the transceiver with {name}: " in detail
    assert remedy in detail


def test_that_the_server_holds_the_only_bind_is_no_failure(conn, add, ok, run_app):
    async def refuse_twice(carrier: Carrier) -> None:
        for status in (CommandStatus.ESME_RALYBND, CommandStatus.ESME_RBINDFAIL):
            await (await carrier.accept(status)).wait_for_close()

    with carrier_in_a_thread(refuse_twice) as carrier:
        add(carrier.port)
        session_records.record_component_heartbeat(conn, "smsc", 0)
        binds.record_bind_states(conn, 1, [BindState(1, "trx", "bound", 1)])
        tested = ok("upstream", "test", "carrier")
        assert tested["ok"]
        assert [(each["step"], each["ok"]) for each in tested["steps"]] == [("connect", True), ("bind", True)]
        done = run_app("upstream", "test", "carrier")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "bind          ok      the carrier allows no further bind (ESME_RBINDFAIL 0x0D) while the server holds its own"
        in done.stdout
    )


@pytest.mark.parametrize(
    ("status", "states"),
    [
        # What can't be, if the server is bound with the same.
        (CommandStatus.ESME_RINVPASWD, ("bound", "bound")),
        # Two are set, and the carrier allows one.
        (CommandStatus.ESME_RALYBND, ("bound", "refused")),
    ],
)
def test_that_the_server_is_bound_is_told_beside_a_failure(conn, add, failed, status, states):
    async def refuse(carrier: Carrier) -> None:
        await (await carrier.accept(status)).wait_for_close()

    with carrier_in_a_thread(refuse) as carrier:
        add(carrier.port, "--binds", len(states))
        session_records.record_component_heartbeat(conn, "smsc", 0)
        recorded = [BindState(number, "trx", state, 1) for number, state in enumerate(states, start=1)]
        binds.record_bind_states(conn, 1, recorded)
        assert f"the server has {states.count('bound')} of its binds bound" in failed()[2]


def test_a_port_that_nobody_listens_on(add, failed):
    add(find_free_port())
    step, detail, _ = failed()
    assert step == "connect"
    assert "refuses the connection: compare --port" in detail


@pytest.mark.slow
def test_no_answer_to_the_connection(add, failed):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as clients:
        address = full.getsockname()
        # Once its queue is full, nothing is answered any more.
        for _ in range(3):
            waiting = clients.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        add(address[1], "--connect-seconds", "1")
        step, detail, _ = failed()
    assert step == "connect"
    assert "in 1 s: a firewall" in detail


def test_a_name_that_does_not_exist(add, failed):
    add(2775, host="carrier.invalid")
    step, detail, _ = failed()
    assert step == "resolve"
    assert "no address of carrier.invalid" in detail


def test_a_resolver_that_hangs_holds_nothing_up(monkeypatch):
    over, was_left = threading.Event(), threading.Event()

    def hang(*args: object, **kwargs: object) -> list[object]:
        if not over.wait(DEADLINE_S):
            was_left.set()
        raise socket.gaierror(socket.EAI_AGAIN, "")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    settings = UpstreamSettings(host="carrier.example", system_id="acme", connect_seconds=0.1)  # type: ignore[arg-type]
    (step,) = run_connection_test("carrier", settings, "secret")
    assert not was_left.is_set()
    over.set()
    assert (step.step, step.ok) == ("resolve", False)
    assert "no answer about carrier.example in 0.1 s" in step.detail


def test_a_machine_without_ipv6_tries_ipv4(monkeypatch):
    class IPv4OnlySocket(socket.socket):
        def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *args, **kwargs)

    with carrier_in_a_thread(take_one_bind) as carrier:
        found = [
            (family, socket.SOCK_STREAM, 6, "", (address, carrier.port))
            for family, address in ((socket.AF_INET6, "2001:db8::1"), (socket.AF_INET, "127.0.0.1"))
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
        monkeypatch.setattr(socket, "socket", IPv4OnlySocket)
        settings = UpstreamSettings(host="carrier.example", port=carrier.port, system_id="acme")
        steps = run_connection_test("carrier", settings, "secret")
    assert [each.step for each in steps] == ["resolve", "connect", "bind", "enquire_link", "unbind"]
    assert all(each.ok for each in steps)
    assert steps[0].detail == "carrier.example is 2001:db8::1, 127.0.0.1"


def test_no_answer_to_the_bind():
    async def be_silent(carrier: Carrier) -> None:
        connection = await carrier.wait_for_connection()
        await connection.read_bind()
        await connection.wait_for_close()

    with carrier_in_a_thread(be_silent) as carrier:
        settings = UpstreamSettings(
            host="127.0.0.1",
            port=carrier.port,
            system_id="acme",
            bind_seconds=0.1,  # type: ignore[arg-type]  # shorter than can be set
        )
        *_, last = run_connection_test("carrier", settings, "secret")
    assert (last.step, last.ok) == ("bind", False)
    assert last.detail.startswith("no answer to the bind (transceiver) in 0.1 s. ")


def test_a_connection_that_is_closed_instead(add, failed):
    async def hang_up(carrier: Carrier) -> None:
        connection = await carrier.wait_for_connection()
        await connection.read_bind()
        connection.writer.close()

    with carrier_in_a_thread(hang_up) as carrier:
        add(carrier.port)
        step, detail, _ = failed()
    assert step == "bind"
    assert "closed the connection instead of answering the bind" in detail


def test_a_connection_that_is_closed_after_the_bind(add, failed):
    async def hang_up(carrier: Carrier) -> None:
        connection = await carrier.accept()
        await connection.wait_for_pdu(CommandId.ENQUIRE_LINK)
        connection.writer.close()

    with carrier_in_a_thread(hang_up) as carrier:
        add(carrier.port)
        step, detail, _ = failed()
    assert step == "enquire_link"
    assert "just after the bind" in detail


def test_a_port_without_tls(add, failed):
    async def answer_like_smpp(carrier: Carrier) -> None:
        connection = await carrier.wait_for_connection()
        await connection.reader.read(5)
        connection.send(HeaderOnlyPdu(CommandId.GENERIC_NACK, 0, CommandStatus.ESME_RINVCMDLEN))
        await connection.wait_for_close()

    with carrier_in_a_thread(answer_like_smpp) as carrier:
        add(carrier.port, "--tls")
        step, detail, _ = failed()
    assert step == "tls"
    assert "doesn't speak TLS" in detail
    assert "--no-tls" in detail


def test_a_connection_that_is_closed_in_the_middle_of_the_handshake(add, failed):
    async def hang_up(carrier: Carrier) -> None:
        connection = await carrier.wait_for_connection()
        await connection.reader.read(5)
        await connection.close()

    with carrier_in_a_thread(hang_up) as carrier:
        add(carrier.port, "--tls")
        step, detail, _ = failed()
    assert step == "tls"
    assert "doesn't speak TLS: it has closed the connection." in detail


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (("--tls",), "--tls-ca-file"),
        (("--tls", "--tls-ca-file", "{ca}", "--tls-server-name", "other.example"), "not valid for 'other.example'"),
        (("--tls", "--tls-ca-file", "{ca}", "--tls-server-name", "carrier.example"), ""),
    ],
)
def test_certificates(add, failed, ok, tmp_path, options, remedy):
    certificate, key = ensure_certificate(tmp_path, "carrier.example")

    async def serve_tls(carrier: Carrier) -> None:
        if not remedy:
            # Only who believes the certificate gets as far as this.
            await take_one_bind(carrier)

    with carrier_in_a_thread(serve_tls, create_tls_context(certificate, key, "1.3")) as carrier:
        add(carrier.port, *(each.format(ca=certificate) for each in options))
        if remedy:
            step, detail, _ = failed()
            assert step == "tls"
            assert remedy in detail
        else:
            tls = ok("upstream", "test", "carrier")["steps"][1]
            assert "its certificate is carrier.example's" in tls["detail"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_pain_8_a_client_certificate_that_is_missing_refused_or_taken(add, failed, ok, tmp_path, version):
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    carrier_files = authority.issue(SERVER_NAME)
    with run_tls_carrier(*carrier_files, client_ca=authority.ca_file, maximum=version) as carrier:
        add(carrier.port, "--tls", "--tls-ca-file", authority.ca_file, "--tls-server-name", SERVER_NAME)
        step, detail, _ = failed()
        assert step == "tls"
        assert "demand" in detail
        assert "(--tls-certificate" in detail
        certificate, key = other.issue("stranger")
        ok("upstream", "change", "carrier", "--tls-certificate", certificate, "--tls-key", key)
        step, detail, _ = failed()
        assert step == "tls"
        assert "it refuses our client certificate (unknown ca). Compare --tls-certificate" in detail
        certificate, key = authority.issue("acme")
        ok("upstream", "change", "carrier", "--tls-certificate", certificate, "--tls-key", key)
        steps = ok("upstream", "test", "carrier")["steps"]
        assert [each["step"] for each in steps] == ["connect", "tls", "bind", "enquire_link", "unbind"]
        assert f"; ours is in {certificate}" in steps[1]["detail"]
    assert carrier.client_names == ["acme"]


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "[" * 100_000, '{"language": "en"}'])
def test_what_no_page_asks_for_is_refused(run_app, text):
    done = run_app("upstream", "probe", stdin=text)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "stdin has no test of a connection" in done.stderr


def test_the_stored_password_is_not_sent_elsewhere_by_what_a_page_has_asked_for(add, run_app, conn):
    """The upstream was changed after the page had looked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        add(listener.getsockname()[1])
        upstream = upstreams.get_upstream(conn, "carrier")
        asked = {
            "language": "en",
            "name": "carrier",
            "settings": format_settings(replace(upstream.settings, host="127.0.0.9")),
            "password": "",
            "upstream": upstream.id,
            "seconds": 60,
        }
        done = run_app("upstream", "probe", stdin=json.dumps(asked))
        # What would end a process that goes on too long is off again: this one goes on.
        assert signal.alarm(0) == 0
        assert (done.returncode, done.stdout) == (1, "")
        assert "enter it again for another host or port" in done.stderr


def test_a_simulator_needs_none(ok, run_app):
    ok("upstream", "add", "sim", "--kind", "simulator")
    assert ok("upstream", "test", "sim") == {"name": "sim", "ok": True, "steps": []}
    assert "is a simulator" in run_app("upstream", "test", "sim").stdout
