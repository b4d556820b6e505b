"""Binding with an upstream once, from this process: what works, step by step, and what to do where it doesn't."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from portal.core import tls_client
from portal.core.tls_client import TlsFault
from portal.services.upstreams.settings import UpstreamSettings
from portal.smsc.protocol.constants import CommandId, CommandStatus, format_status
from portal.smsc.protocol.pdu import DataSm, DeliverSm, HeaderOnlyPdu, PduHeader
from portal.smsc.upstream.smpp_client.client_session import (
    BIND_UNANSWERED,
    ClientSession,
    ClientSettings,
    Respond,
    SessionOwner,
    encode_bind,
)
from portal.smsc.upstream.smpp_client.connector import HostResolver, create_tls_context, describe_error

# What the session logs is in the steps as well: a command has one line on stderr.
logging.getLogger("portal.smsc").addHandler(logging.NullHandler())

_KINDS = {"trx": "transceiver", "tx": "transmitter", "rx": "receiver"}

_MEANINGS: Mapping[int, str] = {
    CommandStatus.ESME_RINVPASWD: "the password isn't the one that the carrier has: enter it anew",
    CommandStatus.ESME_RINVSYSID: "the carrier doesn't know this system_id: compare --system-id with its letter,"
    " capitals count",
    CommandStatus.ESME_RINVSYSTYP: "the carrier wants another system_type: see its letter for --system-type",
    CommandStatus.ESME_RBINDFAIL: "carriers say so for a wrong system_id or password, for an address that they don't"
    " know, and for a second bind where one is allowed: compare with the letter, and tell the carrier this machine's"
    " address",
    CommandStatus.ESME_RALYBND: "the carrier allows no further bind at this time: see --binds, and try again while"
    " the server isn't bound",
    CommandStatus.ESME_RINVBNDSTS: "the carrier doesn't allow this kind of bind: try the other one (--bind trx, or"
    " tx+rx)",
    CommandStatus.ESME_RINVCMDID: "the carrier doesn't know this kind of bind: try --bind tx+rx",
    CommandStatus.ESME_RSYSERR: "something is wrong on the carrier's side, or it has enough binds of yours: try again"
    " later, then ask the carrier",
    CommandStatus.ESME_RTHROTTLED: "too many attempts in too little time: try again in some minutes",
    CommandStatus.ESME_RBINDTHROTTLED: "too many attempts in too little time: try again in some minutes",
}
# What to call for some of them, with the upstream's name.
_COMMANDS: Mapping[int, str] = {
    CommandStatus.ESME_RINVPASWD: "upstream change {} --password-stdin",
    CommandStatus.ESME_RALYBND: "upstream disable {}",
}
_UNKNOWN_MEANING = "ask the carrier what it means by that"

# What carriers answer that allow as many binds as the server holds. They check system_id and password first, or say
# RINVPASWD and RINVSYSID of these; and the server is bound with the same ones.
_NO_FURTHER_BIND = (
    CommandStatus.ESME_RALYBND,
    CommandStatus.ESME_RBINDFAIL,
    CommandStatus.ESME_RSYSERR,
    CommandStatus.ESME_RBINDTHROTTLED,
)

_TLS_REMEDIES: Mapping[TlsFault, str] = {
    TlsFault.EXPIRED: "the carrier has to renew it (is this machine's clock right?)",
    TlsFault.NOT_YET_VALID: "is this machine's clock right?",
    TlsFault.OTHER_NAME: "give the name that the carrier's letter has for it (--tls-server-name), and find out who"
    " answers here where it has none",
    TlsFault.UNKNOWN_AUTHORITY: "give the carrier's own authority (--tls-ca-file)",
    TlsFault.UNTRUSTED: "ask the carrier about its certificate",
    TlsFault.CERTIFICATE_DEMANDED: "give the one that the carrier has signed for you (--tls-certificate, --tls-key)",
    TlsFault.CERTIFICATE_REFUSED: "compare --tls-certificate with what the carrier has signed for you: whether it has"
    " expired, and whether the file has the whole chain",
    TlsFault.CERTIFICATE_MAYBE_DEMANDED: "see the carrier's letter for a client certificate (--tls-certificate), and"
    " for the versions and ciphers that it allows",
    TlsFault.HANDSHAKE_REFUSED: "see the carrier's letter for the versions and ciphers that it allows",
    TlsFault.OTHER_VERSION: "see --tls-minimum; a carrier with nothing newer than TLS 1.1 can't be reached by TLS",
    TlsFault.NO_TLS: "try --no-tls, or the carrier's other port",
    TlsFault.OTHER: "ask the carrier what its server expects, and whether it knows this machine's address",
}


@dataclass(frozen=True, slots=True)
class ConnectionStep:
    """`host` has its port behind it; `step` is resolve, connect, tls, bind, enquire_link or unbind; `detail` what was
    found, or why it failed and what to do about that. `status` is the command_status of a refused bind."""

    host: str
    step: str
    ok: bool
    detail: str
    status: int = 0


class _StepFailed(Exception):
    def __init__(self, step: str, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.step = step
        self.status = status


def run_connection_test(
    name: str, settings: UpstreamSettings, password: str, format_command: Callable[[str], str] = str
) -> list[ConnectionStep]:
    """Bind with an upstream's settings, and unbind: at its host, and then at its second one, where it has any. The
    first step that fails is the last one of its host.

    It takes as long as the settings give each step: a minute and more where nothing answers.

    Args:
        name: the upstream's, for the log and for commands that are told.
        format_command: gives such a command as it has to be typed.
    """
    client_settings = ClientSettings(**asdict(settings), name=name, password=password)
    return [
        step
        for number, (host, port) in enumerate(client_settings.hosts)
        for step in asyncio.run(_test_host(replace(client_settings, host=host, port=port), number, format_command))
    ]


def excuse_refused_binds(steps: Sequence[ConnectionStep]) -> list[ConnectionStep]:
    """Return the steps of a test beside which the server has held all binds that the upstream should have. That the
    carrier allows no further one is as it should be then, and the end of the test.
    """
    return [
        replace(
            each,
            ok=True,
            detail=f"the carrier allows no further bind ({format_status(each.status)}) while the server holds its own,"
            " with the same settings: as it should be",
        )
        if each.status in _NO_FURTHER_BIND
        else each
        for each in steps
    ]


async def _test_host(
    settings: ClientSettings, number: int, format_command: Callable[[str], str]
) -> list[ConnectionStep]:
    """Args: `number`: of the host, from 0."""
    steps: list[ConnectionStep] = []
    host = f"{settings.host}:{settings.port}"

    def report(step: str, detail: str) -> None:
        steps.append(ConnectionStep(host, step, True, detail))

    try:
        addresses = await _resolve(settings, report)
        for kind in settings.bind.split("+"):
            await _test_bind(kind, settings, addresses, report)
    except _StepFailed as failure:
        detail = str(failure)
        if number:
            detail = detail.replace("--host", "--second-host").replace("--port", "--second-port")
        if command := _COMMANDS.get(failure.status):
            detail += f" ({format_command(command.format(settings.name))})"
        steps.append(ConnectionStep(host, failure.step, False, detail, failure.status))
    return steps


_Report = Callable[[str, str], None]


async def _resolve(settings: ClientSettings, report: _Report) -> Sequence[str]:
    resolver = HostResolver()
    try:
        async with asyncio.timeout(settings.connect_seconds):
            addresses = await resolver.resolve(settings.host)
    except TimeoutError:
        raise _StepFailed(
            "resolve", f"no answer about {settings.host} in {settings.connect_seconds:g} s: look at this machine's DNS"
        ) from None
    except (OSError, UnicodeError) as error:
        detail = f"there is no address of {settings.host}: {_describe(error)}. Compare --host with the carrier's letter"
        raise _StepFailed("resolve", detail) from None
    if addresses != [settings.host]:
        report("resolve", f"{settings.host} is {', '.join(addresses)}")
    return addresses


async def _test_bind(kind: str, settings: ClientSettings, addresses: Sequence[str], report: _Report) -> None:
    try:
        bind_octets = encode_bind(settings, kind)
    except ValueError as error:
        raise _StepFailed("bind", str(error)) from None
    opened = await _connect(settings, addresses, report)
    session = _TestSession(kind, bind_octets, settings)
    try:
        started_at = time.monotonic()
        await _begin_session(session, opened, settings)
        opened_in = _format_ms(started_at)
        await _wait_for_bind(session, settings, opened_in, report)
        await _ask_whether_alive(session, settings, report)
        session.unbind("the test is over")
        await session.ended
    except BaseException:
        session.discard()
        raise
    finally:
        opened.close()
    detail = "done" if session.is_unbound else "the carrier hasn't answered it; the connection was closed"
    if session.refused_count:
        detail += (
            f". What it has sent meanwhile ({session.refused_count}) was answered with ESME_RX_T_APPN, to be sent again"
        )
    report("unbind", detail)


async def _connect(settings: ClientSettings, addresses: Sequence[str], report: _Report) -> socket.socket:
    """Open a TCP connection to the first of the addresses that takes one."""
    loop = asyncio.get_running_loop()
    failures = []
    for address in addresses:
        target = f"{address} port {settings.port}"
        started_at = time.monotonic()
        opened: socket.socket | None = None
        try:
            # A machine may have no sockets of this family.
            opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            opened.setblocking(False)
            async with asyncio.timeout(settings.connect_seconds):
                await loop.sock_connect(opened, (address, settings.port))
        except TimeoutError:
            failures.append(
                f"no answer of {target} in {settings.connect_seconds:g} s: a firewall is between, or the carrier lets"
                " only addresses connect that it knows (tell it this machine's)"
            )
        except ConnectionRefusedError:
            failures.append(
                f"{target} refuses the connection: compare --port with the carrier's letter, and whether that port is"
                " with TLS"
            )
        except OSError as error:
            failures.append(f"no connection to {target}: {_describe(error)}. Is there a way from this machine to it?")
        else:
            report("connect", f"{target} answers in {_format_ms(started_at)}")
            return opened
        if opened:
            opened.close()
    raise _StepFailed("connect", "; ".join(failures))


async def _begin_session(session: _TestSession, opened: socket.socket, settings: ClientSettings) -> None:
    """Let the session have the connection, with TLS where that is set: it sends its bind at once."""
    loop = asyncio.get_running_loop()
    if not settings.tls:
        await loop.create_connection(lambda: session, sock=opened)
        return
    try:
        tls_context = await asyncio.to_thread(create_tls_context, settings)
    except (OSError, ValueError) as error:
        raise _StepFailed("tls", f"{error}. See --tls-ca-file, --tls-certificate and --tls-key") from None
    server_name = settings.tls_server_name or settings.host
    try:
        async with asyncio.timeout(settings.connect_seconds):
            await loop.create_connection(lambda: session, sock=opened, ssl=tls_context, server_hostname=server_name)
    except ssl.SSLError as error:
        raise _build_tls_failure(error, settings) from None
    except (TimeoutError, OSError) as error:
        is_silent = isinstance(error, TimeoutError) and not error.errno
        why = f"no answer in {settings.connect_seconds:g} s" if is_silent else describe_error(error, settings)
        detail = (
            f"{settings.host} port {settings.port} doesn't speak TLS: {why}. Try --no-tls, or the carrier's other port"
        )
        raise _StepFailed("tls", detail) from None


def _build_tls_failure(error: ssl.SSLError, settings: ClientSettings) -> _StepFailed:
    shows_certificate = bool(settings.tls_certificate)
    fault = tls_client.classify_failure(error, shows_certificate=shows_certificate)
    why = tls_client.describe_failure(error, shows_certificate=shows_certificate)
    remedy = _TLS_REMEDIES[fault]
    return _StepFailed("tls", f"{settings.host} port {settings.port}: {why}. {remedy[0].upper()}{remedy[1:]}")


async def _wait_for_bind(session: _TestSession, settings: ClientSettings, opened_in: str, report: _Report) -> None:
    started_at = time.monotonic()
    # The session ends where the answer doesn't come in time.
    await asyncio.wait((session.bound, session.ended), return_when=asyncio.FIRST_COMPLETED)
    kind = _KINDS[session.kind]
    if settings.tls:
        # With TLS 1.3 what the carrier says of the client's certificate comes in place of the answer to the bind.
        if isinstance(session.lost_by, ssl.SSLError):
            raise _build_tls_failure(session.lost_by, settings)
        report("tls", _describe_tls(session.tls, opened_in, settings))
    if session.bind_status:
        meaning = _MEANINGS.get(session.bind_status, _UNKNOWN_MEANING)
        detail = f"the carrier refuses the {kind} with {format_status(session.bind_status)}: {meaning}"
        raise _StepFailed("bind", detail, session.bind_status)
    if not session.bound.done():
        hint = (
            "Carriers do so with addresses that they don't know: tell it this machine's; and without the client"
            " certificate that they want (--tls-certificate)"
            if settings.tls
            else "Is the port with TLS (--tls)? Carriers do so with addresses that they don't know, too"
        )
        if session.end_reason.endswith(BIND_UNANSWERED):
            raise _StepFailed("bind", f"no answer to the bind ({kind}) in {settings.bind_seconds:g} s. {hint}")
        raise _StepFailed("bind", f"{session.end_reason} instead of answering the bind ({kind}). {hint}")
    report("bind", f"{kind}, as {settings.system_id}, in {_format_ms(started_at)}")


def _describe_tls(version: str, opened_in: str, settings: ClientSettings) -> str:
    server_name = settings.tls_server_name or settings.host
    trust = f"its certificate is {server_name}'s" if settings.tls_verify else "its certificate wasn't looked at"
    shown = f"; ours is in {settings.tls_certificate}" if settings.tls_certificate else ""
    return f"{version} in {opened_in}, {trust}{shown}"


async def _ask_whether_alive(session: _TestSession, settings: ClientSettings, report: _Report) -> None:
    started_at = time.monotonic()
    session.send_enquire_link()
    answers = (session.is_alive, session.ended)
    await asyncio.wait(answers, timeout=settings.bind_seconds, return_when=asyncio.FIRST_COMPLETED)
    if not session.is_alive.done():
        why = session.end_reason or f"no answer in {settings.bind_seconds:g} s"
        detail = f"{why}, just after the bind. Does the carrier allow one bind more than the server has?"
        raise _StepFailed("enquire_link", detail)
    report("enquire_link", f"answered in {_format_ms(started_at)}")


class _TestSession(ClientSession, SessionOwner):
    """A session that belongs to nobody else, submits nothing, and takes nothing.

    is_alive: done when the enquire_link is answered. is_unbound: whether the unbind was, too.
    refused_count: messages and receipts that came. lost_by: what has ended it.
    """

    is_unbound = False
    refused_count = 0
    lost_by: Exception | None = None

    def __init__(self, kind: str, bind_octets: bytes, settings: ClientSettings) -> None:
        super().__init__(1, kind, (settings.host, settings.port), bind_octets, settings, self)
        self.counters = Counter()
        self.is_alive: asyncio.Future[None] = self._loop.create_future()

    def handle_delivery(self, message: DeliverSm | DataSm, respond: Respond) -> None:
        # Nothing stores it here, so it must not be taken: the carrier sends it again, to the server.
        self.refused_count += 1
        respond(CommandStatus.ESME_RX_T_APPN)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost_by = exc
        super().connection_lost(exc)

    def send_enquire_link(self) -> None:
        self._write(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, self._next_sequence_number()).encode())

    def _pdu_received(self, header: PduHeader, body: bytes) -> None:
        if header.command == CommandId.ENQUIRE_LINK_RESP and not self.is_alive.done():
            self.is_alive.set_result(None)
        self.is_unbound |= header.command == CommandId.UNBIND_RESP
        super()._pdu_received(header, body)


def _describe(error: Exception) -> str:
    if isinstance(error, socket.gaierror) or not isinstance(error, OSError) or not error.errno or error.errno < 0:
        return (getattr(error, "strerror", None) or str(error)).rstrip(".")
    return os.strerror(error.errno)


def _format_ms(started_at: float) -> str:
    return f"{(time.monotonic() - started_at) * 1000:.0f} ms"
