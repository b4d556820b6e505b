"""Keeps one bind of an upstream: looks its host up, connects, binds, and does so again whenever the connection ends."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import ssl
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from functools import partial
from ipaddress import ip_address

from portal.core import tls_client
from portal.core.clock import now_ms
from portal.services.upstreams import binds
from portal.services.upstreams.binds import BindState
from portal.smsc.protocol.constants import CommandStatus
from portal.smsc.upstream.smpp_client.client_session import ClientSession, ClientSettings, SessionOwner, encode_bind

log = logging.getLogger(__name__)

# Pauses between two tries, in multiples of `reconnect_seconds`: after a connection that had held, the first and the
# longest while none comes about, and those after a refusal.
_SHORT_PAUSE, _PAUSES, _REFUSED_PAUSES = 0.1, (1, 6), (2, 30)
_JITTER = 0.25
_MAX_DOUBLINGS = 10
# Refusals that may be over in a moment: the carrier has not noticed yet that the connection before has ended, ...
_PASSING_REFUSALS = (
    CommandStatus.ESME_RALYBND,
    CommandStatus.ESME_RSYSERR,
    CommandStatus.ESME_RTHROTTLED,
    CommandStatus.ESME_RBINDTHROTTLED,
)


class BindStatus(StrEnum):
    """What one bind is doing. CONNECTING is the first time; REFUSED and UNBOUND ones are tried again and again."""

    CONNECTING = "connecting"
    BOUND = binds.BOUND
    REFUSED = binds.REFUSED
    UNBOUND = binds.UNBOUND
    CLOSED = "closed"


class HostResolver:
    """Looks up the host of one upstream, for all of its binds; one look-up at a time, in a thread that nobody joins.

    The system's resolver blocks, for as long as it likes. In the event loop's own threads a few names that hang would
    hold up every other upstream, and the end of the process.
    """

    def __init__(self) -> None:
        self._pending: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def resolve(self, host: str) -> Sequence[str]:
        """Return the addresses of a host, in the order in which they are to be tried.

        Raises OSError where there are none. A caller that is cancelled leaves the look-up to the next one.
        """
        with suppress(ValueError):
            return [str(ip_address(host))]
        if host not in self._pending:
            found: Future[Sequence[str]] = Future()
            # Where no thread can be started the next caller tries it again.
            threading.Thread(target=_look_up, args=(host, found), name=f"resolve {host}", daemon=True).start()
            self._pending[host] = asyncio.wrap_future(found)
            self._pending[host].add_done_callback(partial(self._forget, host))
        return await asyncio.shield(self._pending[host])

    def _forget(self, host: str, looked_up: asyncio.Future[Sequence[str]]) -> None:
        del self._pending[host]
        looked_up.exception()  # nobody may wait for it any more


def _look_up(host: str, found: Future[Sequence[str]]) -> None:
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        found.set_result(list(dict.fromkeys(str(address[0]) for *_, address in addresses)))
    except (OSError, UnicodeError) as error:
        found.set_exception(error)


class BindTurns:
    """Which binds of an upstream, of one kind, may try.

    Only one does, until a bind is accepted, at the start, after other settings, and once the carrier has refused one
    for good: by as many refusals as there are binds it might lock the account. Where that one fails otherwise than by
    a refusal, which says nothing about the others, all may try.
    """

    def __init__(self) -> None:
        self._is_one_at_a_time = True
        # The one that tries.
        self._connector: Connector | None = None
        self._is_free = asyncio.Event()

    def may_try(self, connector: Connector) -> bool:
        """Whether a bind may try now."""
        return self._connector in (None, connector)

    async def wait(self, connector: Connector) -> None:
        """Wait until a bind may try."""
        while not self.may_try(connector):
            await self._is_free.wait()
        if self._is_one_at_a_time:
            self._give_to(connector)

    def allow_all(self) -> None:
        """A bind was accepted."""
        self._is_one_at_a_time = False
        self._give_to(None)

    def allow_one(self) -> None:
        """It isn't known any more whether binds are accepted."""
        self._is_one_at_a_time = True

    def leave(self, connector: Connector) -> None:
        """A bind tries no more."""
        if self._connector is connector:
            self._give_to(None)

    def record_end(self, connector: Connector, *, was_bound: bool, is_refused: bool) -> None:
        """A try has failed, or the connection that it came to has ended."""
        if is_refused:
            self._is_one_at_a_time = True
            self._give_to(self._connector or connector)
        elif was_bound:
            # It is likelier to be accepted than one that was refused.
            if self._connector and self._connector.state.state == BindStatus.REFUSED:
                self._give_to(connector)
        elif self._connector is connector:
            self.allow_all()

    def _give_to(self, connector: Connector | None) -> None:
        self._connector = connector
        if connector:
            self._is_free.clear()
        else:
            self._is_free.set()


class ConnectorOwner(SessionOwner):
    """What a connector tells the client that it belongs to, beside what its sessions do.

    bind_turns: by kind, as a refused transmitter keeps no receiver from bringing receipts.
    """

    resolver: HostResolver
    bind_turns: Mapping[str, BindTurns]

    def handle_state(self, connector: Connector) -> None:
        """The bind has another state."""


class Connector:
    """One bind of an upstream. `state`: how it is."""

    def __init__(self, number: int, kind: str, settings: ClientSettings, owner: ConnectorOwner) -> None:
        self._settings = settings
        self._owner = owner
        self._turns = owner.bind_turns[kind]
        self._loop = asyncio.get_running_loop()
        self._session: ClientSession | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._woken = asyncio.Event()
        self._failures = 0
        # Which of two hosts is tried first.
        self._first_host = 0
        self.state = BindState(number, kind, BindStatus.CONNECTING, now_ms())

    @property
    def _log_name(self) -> str:
        return f"upstream {self._settings.name}, bind {self.state.number}"

    def start(self, after: Collection[asyncio.Task[None]] = ()) -> None:
        """Connect, once `after` are done, and go on doing so."""
        self._owner.handle_state(self)
        self._task = self._loop.create_task(self._keep_bound(after))

    async def close(self, reason: str, answer_seconds: float) -> None:
        """Unbind, once what was sent is answered or after so many seconds, and connect no more."""
        self._closing = True
        if self._session:
            self._session.unbind(reason, answer_seconds)
            await self._session.ended
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._turns.leave(self)
        self._set_state(BindStatus.CLOSED)

    def change_settings(self, settings: ClientSettings) -> None:
        """Go on with other settings: at once where they are for another connection, or it is not bound."""
        self._settings = settings
        self._failures = 0
        if self._session:
            self._session.change_settings(settings)
        if not (self._session and self._session.is_bound):
            self._turns.allow_one()
            self._woken.set()

    async def _keep_bound(self, after: Collection[asyncio.Task[None]]) -> None:
        if after:
            await asyncio.wait(after)
        while not self._closing:
            if not self._turns.may_try(self):
                # Nor is it known when it will.
                self._set_state(BindStatus(self.state.state), self.state.error, self.state.status)
            await self._turns.wait(self)
            self._woken.clear()
            session: ClientSession | None = None
            try:
                session, error = await self._connect()
            except Exception as unexpected:  # an end of this task would be the end of the bind
                log.exception("%s is tried again, after", self._log_name)
                error = f"no connection, for an error in this program: {type(unexpected).__name__}"
            if self._closing:
                return
            bound_at = session.bound_at if session else 0.0
            # Then the next one comes at once.
            has_held = bound_at and self._loop.time() - bound_at > self._settings.reconnect_seconds
            self._failures = 0 if has_held else self._failures + 1
            # The other one, where this one was reached and did not let itself be bound.
            self._first_host = 0 if session is None or bound_at else 1 - self._first_host
            status = session.bind_status if session else 0
            is_refused = status not in (0, *_PASSING_REFUSALS)
            if not self._woken.is_set():
                # Otherwise it has ended for other settings, which says nothing of these.
                self._turns.record_end(self, was_bound=bool(bound_at), is_refused=is_refused)
            pause = self._choose_pause(is_refused)
            state = BindStatus.REFUSED if status else BindStatus.UNBOUND
            self._set_state(state, error, status, now_ms() + int(pause * 1000))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _connect(self) -> tuple[ClientSession | None, str]:
        """Connect, bind, and stay until the end of it. Returns the session, where it came to one, and why it ended."""
        settings = self._settings
        try:
            bind_octets = encode_bind(settings, self.state.kind)
            tls_context = await asyncio.to_thread(create_tls_context, settings) if settings.tls else None
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no thread can be started
            return None, str(error)
        errors = []
        hosts = settings.hosts
        for host, port in hosts[self._first_host :] + hosts[: self._first_host]:
            try:
                session = await self._open_session(host, port, bind_octets, settings, tls_context)
                break
            except TimeoutError:
                errors.append(f"no connection to {host} port {port} in {settings.connect_seconds:g} s")
            except Exception as error:  # whatever resolver, sockets and TLS may raise: the bind goes on being tried
                errors.append(f"no connection to {host} port {port}: {describe_error(error, settings)}")
        else:
            return None, "; ".join(errors)
        self._session = session
        session.change_settings(self._settings)  # they may have changed meanwhile
        await asyncio.wait((session.bound, session.ended), return_when=asyncio.FIRST_COMPLETED)
        if session.bound.done():
            # Its settings are these, so that a loss, whenever it comes, has the usual pause.
            self._woken.clear()
            self._set_state(BindStatus.BOUND, host=f"{host}:{port}" if len(hosts) > 1 else "")
        await session.ended
        self._session = None
        return session, session.end_reason

    async def _open_session(
        self, host: str, port: int, bind_octets: bytes, settings: ClientSettings, tls_context: ssl.SSLContext | None
    ) -> ClientSession:
        """Open a connection to a host, and send the bind. Raises whatever the last of its addresses does."""
        async with asyncio.timeout(settings.connect_seconds):
            addresses = await self._owner.resolver.resolve(host)
        number, kind = self.state.number, self.state.kind
        server_name = (settings.tls_server_name or host) if tls_context else None
        for address in addresses:
            session = ClientSession(number, kind, (host, port), bind_octets, settings, self._owner)
            try:
                # Each has its own time: one that is silent would leave none to the others.
                async with asyncio.timeout(settings.connect_seconds):
                    await self._loop.create_connection(
                        lambda session=session: session, address, port, ssl=tls_context, server_hostname=server_name
                    )
                return session
            except BaseException as error:
                session.discard()
                if not isinstance(error, OSError):
                    raise
                failure = error
        raise failure

    def _choose_pause(self, is_refused: bool) -> float:
        """Return how many seconds to wait before the next try."""
        first, longest = _REFUSED_PAUSES if is_refused else _PAUSES
        doublings = min(self._failures - 1, _MAX_DOUBLINGS)
        factor = min(first * 2**doublings, longest) if self._failures else _SHORT_PAUSE
        return self._settings.reconnect_seconds * factor * random.uniform(1 - _JITTER, 1 + _JITTER)

    def _set_state(
        self, state: BindStatus, error: str = "", status: int = 0, next_attempt_at: int = 0, host: str = ""
    ) -> None:
        old, number, kind = self.state, self.state.number, self.state.kind
        has_turned = BindStatus.BOUND in (state, old.state)
        since = now_ms() if has_turned else old.since
        self.state = BindState(number, kind, state, since, error, status, next_attempt_at, host)
        if self.state == old:
            return
        if replace(self.state, next_attempt_at=old.next_attempt_at) != old:
            # That it has failed once more in the same way is no news.
            level = logging.WARNING if state in (BindStatus.REFUSED, BindStatus.UNBOUND) else logging.INFO
            where = error or host
            log.log(level, "%s (%s): %s%s", self._log_name, kind, state, where and f", {where}")
        try:
            self._owner.handle_state(self)
        except Exception:
            log.exception("%s: its state was not taken up, for", self._log_name)


def create_tls_context(settings: ClientSettings) -> ssl.SSLContext:
    """Return the context of one connection, of its files as they are now.

    Raises ValueError where one of them can't be used.
    """
    return tls_client.create_client_context(
        verify=settings.tls_verify,
        ca_file=settings.tls_ca_file,
        certificate=settings.tls_certificate,
        key=settings.tls_key,
        minimum=settings.tls_minimum,
    )


def describe_error(error: Exception, settings: ClientSettings) -> str:
    """Return what an error of a socket or of TLS says, as the end of a sentence."""
    if isinstance(error, ssl.SSLError):
        return tls_client.describe_failure(error, shows_certificate=bool(settings.tls_certificate))
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    # What asyncio raises where a connection ends in the middle of the TLS handshake says nothing.
    return str(error) or "the carrier has closed the connection"
