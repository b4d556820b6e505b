"""What is looked at before TLS begins: the ClientHello, so that who is refused is told why."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from portal.core.config import Config
from portal.smsc.admission.tls import MAX_CLIENT_HELLO_LENGTH, ClientHelloCounter
from portal.smsc.protocol.constants import CommandId
from portal.smsc.protocol.pdu import HeaderOnlyPdu
from portal.smsc.server import SmppServer, get_event_loop_factory
from tests.smsc.esme import RawEsme, make_tls_client_context, run_smsc, wait_until
from tests.support import Cast

PROTOCOL_VERSION_ALERT = bytes.fromhex("15030300020246")


def make_client_hello(context: ssl.SSLContext) -> bytes:
    """The first record that a client sends."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


TLS_1_2_ONLY = make_tls_client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
TLS_1_2_HELLO = make_client_hello(TLS_1_2_ONLY)
TLS_1_3_HELLO = make_client_hello(make_tls_client_context())


def in_small_records(hello: bytes, size: int) -> bytes:
    """The same ClientHello, in records of so many octets."""
    message = hello[5:]
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2) + piece for piece in pieces)


async def exchange(port: int, *pieces: bytes) -> bytes:
    """Send the pieces one after the other, and return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.fixture(params=["uvloop", "asyncio"])
def run_on_loop(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a scenario on the event loop that the server uses, and on asyncio's own."""
    factory = get_event_loop_factory() if request.param == "uvloop" else None

    def run(scenario: Callable[[], Awaitable[None]]) -> None:
        async def play() -> None:
            await scenario()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(play())

    return run


def test_a_client_without_tls_1_3_is_told_so(
    config: Config, cast: Cast, run_on_loop: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def scenario() -> None:
        async with run_smsc(config) as server:
            for _ in range(5):
                with pytest.raises(ssl.SSLError, match="TLSV1_ALERT_PROTOCOL_VERSION"):
                    await RawEsme.connect(server.tls_port, tls=TLS_1_2_ONLY)
            await RawEsme.connect_and_bind(server.tls_port, cast.smpp_acme_1, tls=make_tls_client_context())
            await wait_until(lambda: server.connection_limits.connection_count == 1)

    run_on_loop(scenario)
    assert "no TLS with 127.0.0.1: it speaks no version of TLS that is allowed here, and was told so" in caplog.text


def test_the_alert_comes_before_the_end_and_not_a_reset(config: Config, run_on_loop: Callable[..., None]) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with run_smsc(config) as server:
            # What comes behind the ClientHello, and is never read by TLS, resets nothing: some clients would not see
            # the alert then.
            assert await exchange(server.tls_port, TLS_1_2_HELLO + b"more" * 4_000) == PROTOCOL_VERSION_ALERT
            with socket.create_connection(("127.0.0.1", server.tls_port)) as client:
                client.setblocking(False)
                await loop.sock_sendall(client, TLS_1_2_HELLO)
                assert await loop.sock_recv(client, 100) == PROTOCOL_VERSION_ALERT
                for _ in range(100):
                    await loop.sock_sendall(client, b"more")
                    await asyncio.sleep(0)
            await wait_until(lambda: not server.connection_limits.connection_count)

    run_on_loop(scenario)


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_a_client_hello_in_pieces_is_put_together(config: Config, size: int) -> None:
    octets = in_small_records(TLS_1_2_HELLO, size)
    async with run_smsc(config) as server:
        assert await exchange(server.tls_port, octets) == PROTOCOL_VERSION_ALERT
        pieces = [TLS_1_2_HELLO[:1], TLS_1_2_HELLO[1:6], TLS_1_2_HELLO[6:40], TLS_1_2_HELLO[40:]]
        assert await exchange(server.tls_port, *pieces) == PROTOCOL_VERSION_ALERT


async def test_a_client_hello_in_pieces_binds_too(config: Config, cast: Cast) -> None:
    """By a relay that passes each octet on alone until the server has answered."""
    async with run_smsc(config) as server:

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            to_server, server_writer = await asyncio.open_connection("127.0.0.1", server.tls_port)
            hello = await reader.read(65536)
            for octet in hello[:20]:
                server_writer.write(bytes((octet,)))
                await asyncio.sleep(0)
            server_writer.write(hello[20:])
            await asyncio.gather(pump(reader, server_writer), pump(to_server, writer))

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            esme = await RawEsme.connect_and_bind(port, cast.smpp_acme_1, tls=make_tls_client_context())
            assert (await esme.submit()).status == 0
            await esme.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while octets := await reader.read(65536):
        writer.write(octets)
    writer.close()


async def test_every_other_reason_for_which_tls_refuses_a_client_hello_is_told_too(config: Config) -> None:
    config = replace(config, smpp=replace(config.smpp, tls_minimum="1.2"))
    needs_an_rsa_key = make_tls_client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    needs_an_rsa_key.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    async with run_smsc(config) as server:
        with pytest.raises(ssl.SSLError, match="ALERT_HANDSHAKE_FAILURE"):
            await RawEsme.connect(server.tls_port, tls=needs_an_rsa_key)


async def test_tls_1_2_where_it_is_the_minimum(config: Config, cast: Cast) -> None:
    config = replace(config, smpp=replace(config.smpp, tls_minimum="1.2"))
    # A client of TLS 1.1 says that version where one of 1.2 says 1.2.
    tls_1_1_hello = TLS_1_2_HELLO[:9] + b"\x03\x02" + TLS_1_2_HELLO[11:]
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.tls_port, cast.smpp_acme_1, tls=TLS_1_2_ONLY)
        assert esme.writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        assert (await esme.submit()).status == 0
        esme = await RawEsme.connect_and_bind(server.tls_port, cast.smpp_globex_1, tls=make_tls_client_context())
        assert esme.writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        answer = await exchange(server.tls_port, tls_1_1_hello)
        assert (answer[0], answer[-2:]) == (21, b"\2\x46")


async def test_openssl_says_it(config: Config) -> None:
    async with run_smsc(config) as server:
        process = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{server.tls_port}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
    assert b"tlsv1 alert protocol version" in errors


@pytest.mark.parametrize(
    "octets",
    [
        HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1).encode(),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"x" * 20,  # a record that is too long
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # another message
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"x" * (2 * MAX_CLIENT_HELLO_LENGTH),  # a message that is too long
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + TLS_1_3_HELLO,
    ],
    ids=["smpp", "http", "long record", "server hello", "long message", "proxy"],
)
async def test_what_is_no_client_hello_is_closed_soon(config: Config, octets: bytes) -> None:
    async with run_smsc(config) as server:
        answer = await exchange_or_reset(server, octets)
        assert answer[:1] in (b"", b"\x15")
        await wait_until(lambda: not server.connection_limits.connection_count)


async def exchange_or_reset(server: SmppServer, octets: bytes) -> bytes:
    try:
        return await exchange(server.tls_port, octets)
    except ConnectionResetError:
        return b""


async def test_who_speaks_smpp_there_is_found_in_the_log(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with run_smsc(config) as server:
        await exchange_or_reset(server, HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1).encode())
        await wait_until(lambda: "what it sends is no TLS" in caplog.text)


@pytest.mark.parametrize("octets", [b"", TLS_1_2_HELLO[:1], TLS_1_2_HELLO[:100]], ids=["none", "one", "half"])
async def test_a_client_hello_that_never_ends_has_the_time_for_a_bind(
    limited: Callable[..., Config], octets: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with run_smsc(limited(bind_seconds=0.1)) as server:
        assert await exchange_or_reset(server, octets) == b""
        await wait_until(lambda: not server.connection_limits.connection_count)
    assert "it has not begun in time" in caplog.text


@pytest.mark.parametrize("resets", [False, True])
async def test_who_only_looks_whether_the_port_is_open_is_not_logged(
    config: Config, resets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with run_smsc(config) as server:
        with socket.create_connection(("127.0.0.1", server.tls_port)) as client:
            # So do balancers that have seen enough: closing resets the connection.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", resets, 0))
            await wait_until(lambda: server.connection_limits.connection_count)
        await wait_until(lambda: not server.connection_limits.connection_count)
    assert "no TLS" not in caplog.text


def iterate_hellos() -> Iterator[bytes]:
    for hello in (TLS_1_2_HELLO, TLS_1_3_HELLO):
        yield hello
        yield in_small_records(hello, 7)


@pytest.mark.parametrize("hello", iterate_hellos(), ids=["1.2", "1.2 small", "1.3", "1.3 small"])
def test_the_length_of_a_client_hello(hello: bytes) -> None:
    assert ClientHelloCounter().count_needed(hello) == len(hello)
    assert ClientHelloCounter().count_needed(hello + b"more") == len(hello)
    counter = ClientHelloCounter()
    for length in range(1, len(hello)):
        assert length < counter.count_needed(hello[:length]) <= len(hello)
        assert length < ClientHelloCounter().count_needed(hello[:length]) <= len(hello)
    assert counter.count_needed(hello + b"more") == len(hello)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_client_that_goes_away_within_its_client_hello_gives_up_its_place(
    limited: Callable[..., Config], cast: Cast, reset: bool
) -> None:
    async with run_smsc(limited(unbound_per_address=1, bind_seconds=600)) as server:
        with socket.create_connection(("127.0.0.1", server.tls_port)) as client:
            client.sendall(TLS_1_3_HELLO[:3])
            await wait_until(lambda: server.connection_limits.unbound_slots)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await RawEsme.connect_and_bind(server.tls_port, cast.smpp_acme_1, tls=make_tls_client_context())


async def test_the_log_says_where_a_client_speaks_tls_on_the_unsecured_port(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_smsc(config) as server:
        await exchange(server.port, TLS_1_3_HELLO)
    assert "disconnecting 127.0.0.1: it speaks TLS, on the unsecured port" in caplog.text


class CountedOctets(bytes):
    """Octets that count how often somebody looks at some of them."""

    looks = 0

    def __getitem__(self, key: Any) -> Any:
        CountedOctets.looks += 1
        return super().__getitem__(key)


def test_each_record_of_an_endless_client_hello_is_looked_at_once() -> None:
    records, times = 2_600, 100
    endless = TLS_1_3_HELLO[:3] + b"\0\1\1" + (TLS_1_3_HELLO[:3] + b"\0\1\xff") * records
    counter = ClientHelloCounter()
    for length in range(len(endless) - times, len(endless)):
        assert counter.count_needed(CountedOctets(endless[:length])) > length
    assert CountedOctets.looks < 5 * (records + times)
