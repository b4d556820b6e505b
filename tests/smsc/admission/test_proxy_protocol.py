"""Connections that a balancer passes on: whose they are, said in the PROXY protocol."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from itertools import pairwise

import pytest

from portal.core import db
from portal.core.config import Config
from portal.services.accounts import refused_binds, session_records
from portal.services.accounts.allowed_ips import IPAddress
from portal.smsc.admission import proxy_protocol
from portal.smsc.admission.proxy_protocol import (
    MAX_HEADER_LENGTH,
    ProxyHeaderError,
    count_header_octets,
    parse_header,
)
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import HeaderOnlyPdu
from portal.smsc.server import SmppServer
from tests.smsc.esme import RawEsme, close_connections, list_sessions, make_tls_client_context, run_smsc, wait_until
from tests.support import Cast, list_refused_binds

BALANCER, ELSEWHERE = "127.0.0.9", "127.0.0.5"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def make_v2(command: int, family: int, addresses: bytes = b"", more: bytes = b"") -> bytes:
    """A header of version 2 (2.2)."""
    return SIGNATURE + bytes((command, family)) + (len(addresses) + len(more)).to_bytes(2) + addresses + more


def make_v2_tcp(source: str, more: bytes = b"") -> bytes:
    client, server = ip_address(source), ip_address("192.0.2.9" if "." in source else "2001:db8::9")
    ports = (40_000).to_bytes(2) + (2775).to_bytes(2)
    return make_v2(0x21, 0x11 if "." in source else 0x21, client.packed + server.packed + ports, more)


def make_v1(source: str) -> bytes:
    server = "2001:db8::9" if ":" in source else "192.0.2.9"
    return f"PROXY TCP{6 if ':' in source else 4} {source} {server} 40000 2775\r\n".encode()


# A TLV of 3.000 octets, as of certificates, and the checksum that needn't be looked at.
TLVS = b"\x20" + (3_000).to_bytes(2) + bytes(3_000) + b"\x03\x00\x04\x12\x34\x56\x78"

OF_CLIENTS = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 2775\r\n", "192.0.2.1"),
    "v1 longest TCP4": (b"PROXY TCP4 255.255.255.254 255.255.255.254 65535 65535\r\n", "255.255.255.254"),
    "v1 TCP6": (b"PROXY TCP6 2001:DB8::1 2001:db8:0:0:0:0:0:2 0 65535\r\n", "2001:db8::1"),
    "v1 mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n", "192.0.2.1"),
    "v2 IPv4": (make_v2_tcp("192.0.2.1"), "192.0.2.1"),
    "v2 IPv6": (make_v2_tcp("2001:db8::1"), "2001:db8::1"),
    "v2 mapped": (make_v2(0x21, 0x21, ip_address("::ffff:192.0.2.1").packed * 2 + bytes(4)), "192.0.2.1"),
    "v2 TLVs": (make_v2_tcp("192.0.2.1", TLVS), "192.0.2.1"),
}
OF_NO_CLIENT = {
    "v1 UNKNOWN": b"PROXY UNKNOWN\r\n",
    "v1 longest UNKNOWN": b"PROXY UNKNOWN " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n",
    "v2 LOCAL": make_v2(0x20, 0),
    "v2 LOCAL with a block": make_v2(0x20, 0xFF, b"whatever"),
    "v2 UNSPEC": make_v2(0x21, 0),
    "v2 UDP": make_v2(0x21, 0x12, bytes(12)),
    "v2 Unix": make_v2(0x21, 0x31, bytes(216)),
}
WRONG = {
    "another protocol": b"GET / HTTP/1.1\r\n",
    "SMPP": HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1).encode(),
    "TLS": b"\x16\x03\x01\x02\x00\x01",
    "nearly v1": b"PROXX TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "nearly v2": SIGNATURE[:-1] + b"\r" + bytes(4),
    "v1 that does not end": b"PROXY TCP4 " + b"1" * 97,
    "v1 without CR": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
    "v1 of UDP": b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 with spaces": b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 with a leading zero": b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
    "v1 of another family": b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    "v1 of two families": b"PROXY TCP4 192.0.2.1 2001:db8::2 1 2\r\n",
    "v1 with a scope": b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n",
    "v1 without ports": b"PROXY TCP4 192.0.2.1 192.0.2.2\r\n",
    "v1 with a port too high": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
    "v1 with a port like octal": b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
    "v2 of another version": make_v2(0x11, 0x11, bytes(12)),
    "v2 of another command": make_v2(0x22, 0x11, bytes(12)),
    "v2 of another family": make_v2(0x21, 0x41, bytes(216)),
    "v2 of another transport": make_v2(0x21, 0x13, bytes(12)),
    "v2 without its addresses": make_v2(0x21, 0x11, bytes(11)),
    "v2 that is too long": make_v2(0x21, 0x11, bytes(MAX_HEADER_LENGTH - 15)),
}


@pytest.mark.parametrize(("header", "client"), OF_CLIENTS.values(), ids=OF_CLIENTS)
def test_headers_that_name_a_client(header: bytes, client: str) -> None:
    assert parse_header(header) == ip_address(client)


@pytest.mark.parametrize("header", OF_NO_CLIENT.values(), ids=OF_NO_CLIENT)
def test_headers_that_name_none(header: bytes) -> None:
    assert parse_header(header) is None


@pytest.mark.parametrize(
    "header", [each for each, _ in OF_CLIENTS.values()] + list(OF_NO_CLIENT.values()), ids=[*OF_CLIENTS, *OF_NO_CLIENT]
)
def test_a_header_has_the_length_that_its_beginning_says(header: bytes) -> None:
    assert len(header) <= MAX_HEADER_LENGTH
    assert count_header_octets(header) == count_header_octets(header + b"more") == len(header)
    for length in range(1, min(len(header), 300)):
        assert length < count_header_octets(header[:length]) <= len(header)


@pytest.mark.parametrize("octets", WRONG.values(), ids=WRONG)
def test_what_is_no_header_is_refused(octets: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_header(octets[: count_header_octets(octets)])


# --- the server


@pytest.fixture
def behind(config: Config) -> Config:
    """The settings of a server behind a balancer."""
    return replace(config, smpp=replace(config.smpp, proxy_protocol_from=(BALANCER, "192.0.2.0/24")))


async def connect_by_balancer(port: int, octets: bytes = b"") -> RawEsme:
    esme = await RawEsme.connect(port, from_address=BALANCER)
    esme.send_octets(octets)
    return esme


async def start_tls(esme: RawEsme) -> None:
    context = make_tls_client_context()
    await esme.writer.start_tls(context)


@pytest.mark.parametrize("tls", [False, True], ids=["unsecured", "TLS"])
@pytest.mark.parametrize(
    "header", [make_v1("127.0.0.1"), make_v2_tcp("127.0.0.1"), make_v2_tcp("::1", TLVS)], ids=["v1", "v2", "v2 IPv6"]
)
async def test_the_client_of_the_header_binds(
    behind: Config, cast: Cast, conn: db.Connection, header: bytes, tls: bool
) -> None:
    login = cast.smpp_acme_1  # has 127.0.0.1 and ::1, and not the balancer's address
    async with run_smsc(behind) as server:
        esme = await connect_by_balancer(server.tls_port if tls else server.port, header)
        if tls:
            await start_tls(esme)
        assert await esme.bind(login.name, login.password) == 0
        assert (await esme.submit()).status == 0
        (row,) = await wait_until(lambda: session_records.list_open_smpp_sessions(conn, login.id))
        assert row.address == str(parse_header(header))
        assert row.tls == ("TLSv1.3" if tls else "")


async def test_the_list_of_addresses_holds_for_clients_and_not_for_the_balancer(
    behind: Config, cast: Cast, conn: db.Connection
) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(behind) as server:
        for header in (make_v1("203.0.113.7"), make_v1("127.0.0.9"), make_v2(0x20, 0)):
            esme = await connect_by_balancer(server.port, header)
            assert await esme.bind(login.name, login.password) == CommandStatus.ESME_RINVPASWD
        rows = await wait_until(lambda: len(rows := list_refused_binds(conn, login.id)) == 2 and rows)
    assert {(each.value, each.reason) for each in rows} == {
        ("203.0.113.7", refused_binds.NOT_AUTHORISED),
        (BALANCER, refused_binds.NOT_AUTHORISED),
    }


@pytest.mark.parametrize("tls", [False, True], ids=["unsecured", "TLS"])
async def test_a_header_may_come_in_pieces_and_with_what_is_behind_it(
    behind: Config, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = make_v2_tcp("127.0.0.1")
    enquiry = HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1).encode()
    seen: set[bytes] = set()

    def note_and_count(octets: bytes) -> int:
        seen.add(octets)
        return count_header_octets(octets)

    monkeypatch.setattr(proxy_protocol, "count_header_octets", note_and_count)
    async with run_smsc(behind) as server:
        esme = await connect_by_balancer(server.tls_port if tls else server.port)
        for start, end in pairwise((0, 1, 14, 20)):
            esme.send_octets(header[start:end])
            await wait_until(partial(seen.__contains__, header[:end]))
        if tls:
            esme.send_octets(header[20:])
            await start_tls(esme)
            esme.send_octets(enquiry)
        else:
            esme.send_octets(header[20:] + enquiry)
        assert (await esme.wait_for_response(1)).status == 0


@pytest.mark.parametrize("wrong", ["SMPP", "TLS", "v1 without CR", "v2 of another command"])
@pytest.mark.parametrize("tls", [False, True], ids=["unsecured", "TLS"])
async def test_from_the_balancer_nothing_else_is_taken(
    behind: Config, wrong: str, tls: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_smsc(behind) as server:
        esme = await connect_by_balancer(server.tls_port if tls else server.port, WRONG[wrong])
        await esme.wait_for_close()
        assert not list_sessions(server)
        assert not server.connection_limits.connection_count
    assert f"no PROXY header from {BALANCER}" in caplog.text


@pytest.mark.parametrize("header", [make_v1("127.0.0.1"), make_v2_tcp("127.0.0.1")], ids=["v1", "v2"])
async def test_from_others_a_header_is_not_believed(behind: Config, cast: Cast, header: bytes) -> None:
    async with run_smsc(behind) as server:
        for port in (server.port, server.tls_port):
            esme = await RawEsme.connect(port, from_address=ELSEWHERE)
            esme.send_octets(header)
            await esme.wait_for_close()
        # Without one they come in as ever.
        await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)


async def test_a_header_that_never_ends_has_the_time_for_a_bind(
    limited: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    config = limited(bind_seconds=0.1)
    config = replace(config, smpp=replace(config.smpp, proxy_protocol_from=(BALANCER,)))
    async with run_smsc(config) as server:
        for octets in (b"", b"PROXY TCP4 ", SIGNATURE):
            await (await connect_by_balancer(server.port, octets)).wait_for_close()
        assert not server.connection_limits.connection_count
    assert caplog.text.count("it has not come in time") == 3


async def test_a_balancer_that_looks_whether_the_port_is_open_is_not_logged(
    behind: Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with run_smsc(behind) as server:
        for port in (server.port, server.tls_port):
            for header in (b"", make_v2(0x20, 0)):
                esme = await connect_by_balancer(port, header)
                esme.writer.write_eof()
                await esme.wait_for_close()
        await wait_until(lambda: not server.connection_limits.connection_count)
    assert BALANCER not in caplog.text


async def test_limits_count_the_clients_and_not_the_balancer(limited: Callable[..., Config], cast: Cast) -> None:
    config = limited(unbound_per_address=2)
    config = replace(config, smpp=replace(config.smpp, proxy_protocol_from=(BALANCER,)))
    enquiry = HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1).encode()
    async with run_smsc(config) as server:
        first, second, third = [
            await connect_by_balancer(server.port, make_v1("203.0.113.7") + enquiry) for _ in range(3)
        ]
        for number in range(1, 6):
            esme = await connect_by_balancer(server.port, make_v1(f"203.0.113.{100 + number}") + enquiry)
            assert (await esme.wait_for_response(1)).status == 0
        assert [(await each.wait_for_response(1)).status for each in (first, second)] == [0, 0]
        assert len(list_sessions(server)) == 7
        first.abort()
        assert (await third.wait_for_response(1)).status == 0


async def test_wrong_binds_of_ipv6_count_by_64_56_and_48(limited: Callable[..., Config]) -> None:
    config = limited(bind_failures=1)
    config = replace(config, smpp=replace(config.smpp, proxy_protocol_from=(BALANCER,)))
    tried = 0

    async def guess(address: str) -> int:
        nonlocal tried
        tried += 1
        esme = await connect_by_balancer(server.port, make_v1(address))
        # The names are counted, too.
        return await esme.bind(f"smpp-nobody-{tried}", "guess")

    looked_at, throttled = CommandStatus.ESME_RINVPASWD, CommandStatus.ESME_RBINDTHROTTLED
    async with run_smsc(config) as server:
        assert [await guess(f"2001:db8:0:1::{host}") for host in (1, 2)] == [looked_at, throttled]
        assert [await guess(f"2001:db8:0:{network}::1") for network in (2, 3)] == [looked_at, throttled]
        assert [await guess(f"2001:db8:0:{network}00::1") for network in (1, 2, 3)] == [looked_at, looked_at, throttled]
        assert await guess("2001:db8:1::1") == looked_at


async def test_those_whose_header_has_not_come_count_in_all(limited: Callable[..., Config], cast: Cast) -> None:
    config = limited(connections=3)
    config = replace(config, smpp=replace(config.smpp, proxy_protocol_from=(BALANCER,)))
    async with run_smsc(config) as server:
        waiting = [await connect_by_balancer(server.port) for _ in range(3)]
        await wait_until(lambda: server.connection_limits.connection_count == 3)
        await (await connect_by_balancer(server.port, make_v1("127.0.0.1"))).wait_for_close()
        await (await RawEsme.connect(server.port)).wait_for_close()
        waiting[0].abort()
        await wait_until(lambda: server.connection_limits.connection_count == 2)
        waiting[1].send_octets(make_v1("127.0.0.1"))
        assert await waiting[1].bind(cast.smpp_acme_1.name, cast.smpp_acme_1.password) == 0


async def test_those_whose_header_comes_while_the_server_stops_are_closed(
    behind: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def parse_and_note(header: bytes) -> IPAddress | None:
        parsed.append(header)
        return parse_header(header)

    monkeypatch.setattr(proxy_protocol, "parse_header", parse_and_note)
    server = SmppServer(behind, asyncio.get_running_loop(), on_fatal_error=lambda: None)
    server.start()
    in_time, late = [await connect_by_balancer(server.port) for _ in range(2)]
    await wait_until(lambda: server.connection_limits.connection_count == 2)
    in_time.send_octets(make_v1("127.0.0.1"))
    # Its header has been read, and is acted on in the next turn of the event loop.
    async with asyncio.timeout(10):
        while not parsed:
            await asyncio.sleep(0)
    await server.close()
    await asyncio.gather(in_time.wait_for_close(), late.wait_for_close())
    assert not server.connection_limits.connection_count
    await close_connections()
