"""Kannel and where its reports go; limits, a database that is held, and outages, for all clients."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from portal.core import clock, db
from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.messages import outcomes, smpp_config
from portal.services.messages.outcomes import MessageOutcome
from tests.interop.kannel import TRANSCEIVER, DeliveryReportServer, Kannel
from tests.serving import stop_process
from tests.support import Cast, RunningServer, wait_until


@pytest.fixture
def serve(serve_alone: Callable[..., RunningServer]) -> Callable[..., RunningServer]:
    """Starts the SMPP server alone: other people's clients have to do with nothing else."""
    return partial(serve_alone, "smsc")


@pytest.fixture
def reports() -> Iterator[DeliveryReportServer]:
    """A web server that takes Kannel's delivery reports."""
    with DeliveryReportServer().listening() as listening:
        yield listening


class StartKannel(Protocol):
    def __call__(self, binds: Sequence[str] = TRANSCEIVER, *, trusting: Path | None = None) -> Kannel: ...


@pytest.fixture
def kannel(tmp_path: Path, server: RunningServer, cast: Cast, reports: DeliveryReportServer) -> Iterator[StartKannel]:
    """Starts Kannel with the credentials of `smpp_acme_1`, and waits until it is bound.

    With a certificate to trust, it uses the TLS port.
    """
    with ExitStack() as running:

        def start_kannel(binds: Sequence[str] = TRANSCEIVER, *, trusting: Path | None = None) -> Kannel:
            port = server.tls_port if trusting else server.port
            made = Kannel(tmp_path, cast.smpp_acme_1, port, reports, binds, trusting)
            running.enter_context(made.running())
            made.wait_for_state("online")
            return made

        yield start_kannel


class SetLimits(Protocol):
    def __call__(self, *, windowing: int = 0, throughput: int = 0) -> None: ...


@pytest.fixture
def limit(conn: db.Connection, cast: Cast, server: RunningServer) -> SetLimits:
    """Sets the limits of `smpp_acme_1` (0: none), and waits until the server knows."""

    def set_limits(*, windowing: int = 0, throughput: int = 0) -> None:
        account = accounts.get_account(conn, cast.smpp_acme_1.name)
        accounts.change_account(conn, SHELL, account, windowing=windowing, throughput=throughput)
        wait_until(lambda: not smpp_config.has_unapplied_config_changes(conn, account.id))

    return set_limits


HoldDatabase = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def hold(connect: Callable[[], db.Connection]) -> HoldDatabase:
    """Keeps the server from writing for the length of a block: what it accepts meanwhile stays in its window."""

    @contextmanager
    def hold_database() -> Iterator[None]:
        with db.write_transaction(connect()):
            yield

    return hold_database


StartOutage = Callable[[RunningServer, signal.Signals], AbstractContextManager[Callable[[str], None]]]


@pytest.fixture
def outage(serve: Callable[..., RunningServer], conn: db.Connection) -> StartOutage:
    """Ends the server by a signal, and starts it again, as it was, at the end of a block.

    In the block is a function that writes down that a message was delivered, by its message_id: the receipt waits from
    then on, and no client can have had it before.
    """

    def mark_delivered(message_id: str) -> None:
        outcomes.finish_messages(conn, [MessageOutcome(int(message_id), DELIVERED, 0, clock.now_ms())])

    @contextmanager
    def stop_and_restart(server: RunningServer, how: signal.Signals) -> Iterator[Callable[[str], None]]:
        if how == signal.SIGKILL:
            server.process.kill()
            server.process.wait()
        else:
            assert stop_process(server.process) == 0
        yield mark_delivered
        serve()

    return stop_and_restart
