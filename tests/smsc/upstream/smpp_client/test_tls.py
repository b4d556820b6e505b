"""TLS towards carriers: what is believed, client certificates, versions; and that the state says what is wrong."""

import asyncio
import datetime
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portal.smsc.upstream.smpp_client.client_session import ClientSettings
from portal.smsc.upstream.smpp_client.connector import BindStatus
from tests.smsc.upstream.smpp_client.carrier import run_carrier, run_client
from tests.smsc.upstream.smpp_client.tls_carrier import SERVER_NAME, Authority, TlsCarrier, run_tls_carrier

DAY = datetime.timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def other_authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "other authority")


def believing(authority: Authority, **settings: Any) -> dict[str, Any]:
    """The settings of a client that believes an authority."""
    return {"tls": True, "tls_ca_file": str(authority.ca_file), "tls_server_name": SERVER_NAME, **settings}


def showing(certificate: Path, key: Path) -> dict[str, Any]:
    return {"tls_certificate": str(certificate), "tls_key": str(key)}


async def read_error(port: int, settings: dict[str, Any]) -> str:
    """What the state says of a bind that doesn't come about."""
    async with run_client(port, **settings) as (_, reports):
        return (await reports.wait_for_state(BindStatus.UNBOUND)).error


async def bind_with(carrier: TlsCarrier, settings: dict[str, Any]) -> None:
    async with run_client(carrier.port, **settings) as (_, reports):
        await reports.wait_for_state(BindStatus.BOUND)


@pytest.mark.parametrize(
    ("issued", "says"),
    [
        ({"until": -DAY / 2}, "its certificate has expired"),
        ({"since": DAY / 2}, "its certificate is not valid yet"),
        ({"name": "smpp.other.example"}, "its certificate is of another name (Hostname mismatch, "),
        ({}, ""),
    ],
)
async def test_pain_8_the_state_names_what_is_wrong_with_a_certificate(authority, issued, says):
    with run_tls_carrier(*authority.issue(**{"name": SERVER_NAME} | issued)) as carrier:
        if says:
            error = await read_error(carrier.port, believing(authority))
            assert error.startswith(f"no connection to 127.0.0.1 port {carrier.port}: {says}")
        else:
            await bind_with(carrier, believing(authority))
            assert carrier.client_names == [""]


async def test_an_authority_that_is_not_believed_is_named(authority, other_authority):
    with run_tls_carrier(*authority.issue(SERVER_NAME)) as carrier:
        error = await read_error(carrier.port, believing(other_authority))
    assert error.endswith(
        ": no authority that is believed has signed its certificate (unable to get local issuer certificate)"
    )


async def test_a_connection_that_is_closed_in_the_middle_of_the_handshake(authority):
    async with run_carrier() as carrier:
        reading = asyncio.create_task(read_error(carrier.port, believing(authority)))
        connection = await carrier.wait_for_connection()
        await connection.reader.read(5)
        await connection.close()
        error = await reading
    assert error == f"no connection to 127.0.0.1 port {carrier.port}: the carrier has closed the connection"


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
async def test_pain_8_a_carrier_that_demands_a_client_certificate_gets_it(authority, version):
    own = authority.issue("acme")
    carrier_files = authority.issue(SERVER_NAME)
    with run_tls_carrier(*carrier_files, client_ca=authority.ca_file, maximum=version) as carrier:
        await bind_with(carrier, believing(authority, **showing(*own)))
        assert carrier.client_names == ["acme"]


@VERSIONS
async def test_pain_8_that_a_client_certificate_is_demanded_is_told(authority, version):
    carrier_files = authority.issue(SERVER_NAME)
    with run_tls_carrier(*carrier_files, client_ca=authority.ca_file, maximum=version) as carrier:
        error = await read_error(carrier.port, believing(authority))
    told = {
        # It has one alert for all that it doesn't like.
        ssl.TLSVersion.TLSv1_2: "it refuses the handshake, and may demand a client certificate",
        ssl.TLSVersion.TLSv1_3: "it demands a client certificate",
    }
    assert error.endswith(f": {told[version]}")


@VERSIONS
@pytest.mark.parametrize(
    ("issue", "says"),
    [
        (lambda authority, other: authority.issue("acme", until=-DAY / 2), "certificate expired"),
        (lambda authority, other: other.issue("acme"), "unknown ca"),
    ],
)
async def test_pain_8_that_a_client_certificate_is_refused_is_told_with_the_reason(
    authority: Authority,
    other_authority: Authority,
    version: ssl.TLSVersion,
    issue: Callable[[Authority, Authority], tuple[Path, Path]],
    says: str,
) -> None:
    carrier_files = authority.issue(SERVER_NAME)
    with run_tls_carrier(*carrier_files, client_ca=authority.ca_file, maximum=version) as carrier:
        error = await read_error(carrier.port, believing(authority, **showing(*issue(authority, other_authority))))
    assert error.endswith(f": it refuses our client certificate ({says})")


async def test_a_renewed_certificate_is_shown_at_the_next_connect(authority):
    files = authority.issue("acme-2026", file="client")
    with run_tls_carrier(*authority.issue(SERVER_NAME), client_ca=authority.ca_file) as carrier:
        async with run_client(carrier.port, **believing(authority, **showing(*files))) as (_, reports):
            await reports.wait_for_state(BindStatus.BOUND)
            assert authority.issue("acme-2027", file="client") == files
            carrier.cut()
            await reports.wait_for_state(BindStatus.UNBOUND)
            await reports.wait_for_state(BindStatus.BOUND)
    assert carrier.client_names == ["acme-2026", "acme-2027"]


async def test_another_certificate_is_shown_at_once(authority):
    one, other = authority.issue("acme-1"), authority.issue("acme-2")
    with run_tls_carrier(*authority.issue(SERVER_NAME), client_ca=authority.ca_file) as carrier:
        async with run_client(carrier.port, **believing(authority, **showing(*one))) as (client, reports):
            await reports.wait_for_state(BindStatus.BOUND)
            changed = believing(authority, **showing(*other), system_id="portal", reconnect_seconds=0.05)
            client.change_settings(ClientSettings("127.0.0.1", carrier.port, **changed))
            await reports.wait_for_state(BindStatus.UNBOUND)
            await reports.wait_for_state(BindStatus.BOUND)
    assert carrier.client_names == ["acme-1", "acme-2"]


async def test_certificate_and_key_may_be_in_one_file(authority):
    certificate, key = authority.issue("acme")
    certificate.write_bytes(key.read_bytes() + certificate.read_bytes())
    with run_tls_carrier(*authority.issue(SERVER_NAME), client_ca=authority.ca_file) as carrier:
        await bind_with(carrier, believing(authority, tls_certificate=str(certificate)))
        assert carrier.client_names == ["acme"]


async def test_files_that_cannot_be_used_are_named(authority):
    certificate, key = authority.issue("acme")
    _, other_key = authority.issue("other")
    _, sealed_key = authority.issue("sealed", passphrase="secret")
    for files, says in (
        ((certificate, key.with_name("none")), f"client key {key.with_name('none')}: No such file or directory"),
        ((key, key), f"client certificate {key}: no certificate in PEM is in it"),
        ((certificate, certificate), f"client key {certificate}: no private key in PEM is in it"),
        ((certificate, other_key), f"client key {other_key}: it doesn't belong to the certificate in {certificate}"),
        ((certificate, sealed_key), f"client key {sealed_key}: it has a passphrase, which nobody enters here: "),
    ):
        assert (await read_error(1, believing(authority, **showing(*files)))).startswith(says)


async def test_a_lowest_version_is_kept(authority):
    with run_tls_carrier(*authority.issue(SERVER_NAME), maximum=ssl.TLSVersion.TLSv1_2) as carrier:
        error = await read_error(carrier.port, believing(authority, tls_minimum="1.3"))
        assert error.endswith(": it has no version of TLS that is allowed here")
        await bind_with(carrier, believing(authority))
