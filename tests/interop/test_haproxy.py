"""HAProxy before the server, as docs/operating.md says: addresses are those of its clients."""

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from portal.core import db
from portal.core.config import Config
from portal.services.accounts import accounts, allowed_ips
from portal.services.common.audit import SHELL
from portal.smsc.protocol.constants import CommandStatus
from portal.smsc.server import SmppServer
from tests.smsc.esme import RawEsme, make_tls_client_context, run_smsc, wait_until
from tests.support import Cast, find_free_port

HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") or "haproxy"
BALANCER = "127.0.0.9"
SETTINGS = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 90s
    timeout server 90s
    source {balancer}

listen smpp
    bind 127.0.0.1:{port}
    server portal 127.0.0.1:{server.port} {send} check inter 100ms

listen smpp-tls
    bind 127.0.0.1:{tls_port}
    bind [::1]:{tls_port}
    server portal 127.0.0.1:{server.tls_port} {send} check inter 100ms
"""


@asynccontextmanager
async def run_haproxy(server: SmppServer, send: str, folder: Path) -> AsyncIterator[tuple[int, int]]:
    """HAProxy before a server; gives the ports, unsecured and TLS, that it listens on."""
    port, tls_port = find_free_port(), find_free_port()
    settings = folder / "haproxy.cfg"
    settings.write_text(SETTINGS.format(balancer=BALANCER, server=server, send=send, port=port, tls_port=tls_port))
    process = await asyncio.create_subprocess_exec(HAPROXY, "-db", "-q", "-f", settings)
    try:
        await wait_until(lambda: process.returncode is not None or is_listening(tls_port))
        yield port, tls_port
    finally:
        process.terminate()
        await process.wait()


def is_listening(port: int) -> bool:
    """Whether somebody does, as the kernel knows it: a connection would be passed on."""
    return any(line.split()[1].endswith(f":{port:04X}") for line in Path("/proc/net/tcp").read_text().splitlines()[1:])


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
async def test_accounts_see_its_clients_and_not_haproxy(
    config: Config, cast: Cast, conn: db.Connection, tmp_path: Path, send: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = replace(config, smpp=replace(config.smpp, proxy_protocol_from=(BALANCER,)))
    account = accounts.get_account(conn, cast.smpp_acme_2.name)
    allowed_ips.add_allowed_ip(conn, SHELL, account, BALANCER)
    tls = make_tls_client_context()
    async with run_smsc(config) as server, run_haproxy(server, send, tmp_path) as (port, tls_port):
        esme = await RawEsme.connect_and_bind(port, cast.smpp_acme_1)
        assert (await esme.submit()).status == 0
        await RawEsme.connect_and_bind(tls_port, cast.smpp_globex_1, host="::1", tls=tls)
        rows = await wait_until(
            lambda: len(rows := conn.execute("SELECT address, tls FROM connections").fetchall()) == 2 and rows
        )
        assert {tuple(row) for row in rows} == {("127.0.0.1", ""), ("::1", "TLSv1.3")}
        # HAProxy's own address opens nothing, though this account has authorised it.
        other = await RawEsme.connect(port)
        login = cast.smpp_acme_2
        assert await other.bind(login.name, login.password) == CommandStatus.ESME_RINVPASWD
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match="TLSV1_ALERT_PROTOCOL_VERSION"):
            await RawEsme.connect(tls_port, tls=tls)
    # Its health checks, ten a second here, are none of the log's business.
    assert BALANCER not in caplog.text
