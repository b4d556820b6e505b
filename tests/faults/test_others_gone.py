"""Without the mail server, the web process or the SMPP server the rest goes on, and nothing is lost."""

import json
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from portal.core import db
from portal.core.config import Config
from portal.smsc.protocol.constants import CommandStatus
from tests.faults.conftest import ReportCounts
from tests.faults.crowd import ClientCrowd, run_crowd
from tests.faults.visitor import WebVisitor
from tests.mailbox import Mailbox
from tests.serving import is_server_ready, start_server
from tests.smsc.esme import RawEsme, close_connections
from tests.support import AccountLogin, Cast, RunningServer, wait_until

_MAILS = 3
# A heartbeat counts for ten seconds where no supervisor says that its sender has ended.
_SILENT_S = 15

RunApp = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def alone(config: Config) -> Iterator[Callable[[str], RunningServer]]:
    """Starts `web` or `smsc` by itself, so that nobody starts it again."""
    with ExitStack() as running:
        yield lambda name: running.enter_context(start_server(config, name))


@pytest.fixture
def web_and_smsc(alone: Callable[[str], RunningServer]) -> tuple[RunningServer, RunningServer]:
    both = alone("web"), alone("smsc")
    wait_until(lambda: is_server_ready(both[0]), 20)
    return both


def test_mails_wait_for_their_server(
    serve: Callable[..., RunningServer], run_app: RunApp, conn: db.Connection, cast: Cast, tell: ReportCounts
) -> None:
    mailbox = Mailbox()
    server = serve(PORTAL_MAIL_URL=mailbox.url)
    for _ in range(_MAILS):
        assert run_app("password", "regenerate", cast.smpp_acme_1.name, "--mail").returncode == 0
    tried = "SELECT count(*) FROM mails WHERE error <> '' AND sent_at IS NULL"
    wait_until(lambda: conn.execute(tried).fetchone()[0] == _MAILS)
    assert WebVisitor(server.url).log_in(cast.alice)
    with mailbox.listening():
        # With the one about that login.
        received = Counter(mailbox.wait_for_mail()["Message-ID"] for _ in range(_MAILS + 1))
        waiting = "SELECT count(*) FROM mails WHERE sent_at IS NULL"
        wait_until(lambda: conn.execute(waiting).fetchone()[0] == 0)
    assert list(received.values()) == [1] * (_MAILS + 1)
    tell(mails=_MAILS + 1, received=received.total())


def test_smpp_goes_on_without_the_pages(
    web_and_smsc: tuple[RunningServer, RunningServer],
    logins: list[AccountLogin],
    run_app: RunApp,
    nothing_lost: Callable[[ClientCrowd], dict[str, int]],
    tell: ReportCounts,
) -> None:
    web, smsc = web_and_smsc
    with run_crowd(smsc.port, *logins) as clients:
        clients.wait_for_all_clients(10)
        web.process.kill()
        web.process.wait()
        clients.wait_for_all_clients(200)
        assert clients.binds == len(logins)
        # What the command line changes takes effect at once.
        run_app("account", "disable", logins[0].name)
        ended = clients.clients[0]
        wait_until(lambda: not ended.is_bound)
        run_app("account", "enable", logins[0].name)
        clients.wait_for_all_clients(10)
        tell(**nothing_lost(clients))


async def test_the_pages_go_on_without_smpp_and_what_they_change_holds_when_it_is_back(
    web_and_smsc: tuple[RunningServer, RunningServer],
    alone: Callable[[str], RunningServer],
    cast: Cast,
    logins: list[AccountLogin],
    run_app: RunApp,
    tell: ReportCounts,
) -> None:
    web, smsc = web_and_smsc
    before = await RawEsme.connect_and_bind(smsc.port, cast.smpp_acme_1)
    alice = WebVisitor(web.url)
    assert alice.log_in(cast.alice)
    smsc.process.kill()
    smsc.process.wait()
    await before.wait_for_close()
    home = f"/accounts/{cast.smpp_acme_1.name}"
    for page in ("/", home, f"{home}/sessions", f"{home}/history", f"{home}/options/smpp"):
        assert alice.get(page).status_code == 200
    assert alice.post(f"{home}/ips", network="127.0.0.7").status_code == 303
    done = run_app("password", "regenerate", cast.smpp_acme_1.name, "--json")
    replaced = AccountLogin(cast.smpp_acme_1.id, cast.smpp_acme_1.name, json.loads(done.stdout)["password"])
    run_app("account", "disable", logins[0].name)
    assert _status(run_app, cast.smpp_acme_1) == "UPDATING_IP", "it says that a change isn't in force yet"
    wait_until(lambda: not is_server_ready(web), _SILENT_S)
    assert "The SMPP server isn't answering" in alice.get(f"{home}/sessions").text
    assert "smpp_portal_smsc_up 0" in urllib.request.urlopen(f"{web.url}/metrics", timeout=10).read().decode()

    alone("smsc")
    wait_until(lambda: is_server_ready(web), _SILENT_S)
    assert "isn't answering" not in alice.get(f"{home}/sessions").text
    try:
        assert await _bind(smsc, cast.smpp_acme_1) == CommandStatus.ESME_RINVPASWD
        assert await _bind(smsc, logins[0]) == CommandStatus.ESME_RBINDFAIL
        assert await _bind(smsc, replaced, "127.0.0.7") == 0
    finally:
        await close_connections()
    wait_until(lambda: _status(run_app, cast.smpp_acme_1) == "SUCCESS")
    tell(pages=5, changes=3)


def _status(run_app: RunApp, login: AccountLogin) -> str:
    return str(json.loads(run_app("account", "show", login.name, "--json").stdout)["status"])


async def _bind(server: RunningServer, login: AccountLogin, address: str = "127.0.0.1") -> int:
    esme = await RawEsme.connect(server.port, from_address=address)
    return await esme.bind(login.name, login.password)
