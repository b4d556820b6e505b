"""Kannel, and where its reports go."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.kannel import TRANSCEIVER, Kannel, Reports
from tests.support import Cast, Server


@pytest.fixture
def reports() -> Iterator[Reports]:
    """A web server that takes Kannel's delivery reports."""
    with Reports().listening() as listening:
        yield listening


@pytest.fixture
def kannel(tmp_path: Path, server: Server, cast: Cast, reports: Reports) -> Iterator[Callable[..., Kannel]]:
    """Starts Kannel with the credentials of `smpp_acme_1`, and waits until it is bound."""
    with ExitStack() as running:

        def start(binds: Sequence[str] = TRANSCEIVER) -> Kannel:
            made = Kannel(tmp_path, cast.smpp_acme_1, server.port, reports, binds)
            running.enter_context(made.running())
            made.wait("online")
            return made

        yield start
