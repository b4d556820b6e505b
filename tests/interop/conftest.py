"""Kannel and where its reports go; limits, a database that is held, and outages, for all clients."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from portal.core import clock, db
from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.messages import outcomes
from portal.services.messages.outcomes import Outcome
from tests.interop.kannel import TRANSCEIVER, Kannel, Reports
from tests.serving import children, stop
from tests.support import Cast, Server, eventually


@pytest.fixture
def reports() -> Iterator[Reports]:
    """A web server that takes Kannel's delivery reports."""
    with Reports().listening() as listening:
        yield listening


class StartKannel(Protocol):
    def __call__(self, binds: Sequence[str] = TRANSCEIVER, *, trusting: Path | None = None) -> Kannel: ...


@pytest.fixture
def kannel(tmp_path: Path, server: Server, cast: Cast, reports: Reports) -> Iterator[StartKannel]:
    """Starts Kannel with the credentials of `smpp_acme_1`, and waits until it is bound.

    With a certificate to trust, it uses the TLS port.
    """
    with ExitStack() as running:

        def start(binds: Sequence[str] = TRANSCEIVER, *, trusting: Path | None = None) -> Kannel:
            port = server.tls_port if trusting else server.port
            made = Kannel(tmp_path, cast.smpp_acme_1, port, reports, binds, trusting)
            running.enter_context(made.running())
            made.wait("online")
            return made

        yield start


class Limit(Protocol):
    def __call__(self, *, windowing: int = 0, throughput: int = 0) -> None: ...


@pytest.fixture
def limit(conn: db.Connection, cast: Cast, server: Server) -> Limit:
    """Sets the limits of `smpp_acme_1` (0: none), and waits until the server knows."""

    def set_them(*, windowing: int = 0, throughput: int = 0) -> None:
        account = accounts.by_name(conn, cast.smpp_acme_1.name)
        accounts.change(conn, SHELL, account, windowing=windowing, throughput=throughput)
        eventually(lambda: accounts.by_name(conn, account.name).status == accounts.SUCCESS)

    return set_them


Hold = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def hold(connect: Callable[[], db.Connection]) -> Hold:
    """Keeps the server from writing for the length of a block: what it accepts meanwhile stays in its window."""

    @contextmanager
    def held() -> Iterator[None]:
        with db.immediate(connect()):
            yield

    return held


Outage = Callable[[Server, signal.Signals], AbstractContextManager[Callable[[str], None]]]


@pytest.fixture
def outage(serve: Callable[..., Server], conn: db.Connection) -> Outage:
    """Ends the whole program by a signal, and starts it again, as it was, at the end of a block.

    In the block is a function that writes down that a message was delivered, by its message_id: the receipt waits from
    then on, and no client can have had it before.
    """

    def delivered(message_id: str) -> None:
        outcomes.finish(conn, [Outcome(int(message_id), DELIVERED, 0, clock.now_ms())])

    @contextmanager
    def away(server: Server, how: signal.Signals) -> Iterator[Callable[[str], None]]:
        if how == signal.SIGKILL:
            for pid in (server.process.pid, *children(server.process.pid).values()):
                os.kill(pid, signal.SIGKILL)
            server.process.wait()
        else:
            assert stop(server.process) == 0
        yield delivered
        serve()

    return away
