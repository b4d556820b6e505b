"""Binding with an upstream once, from this process: what works, step by step, and what to do where it doesn't."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sqlite3
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from portal.cli.shell import wrong_usage
from portal.core import i18n, tls_client
from portal.core.crypto import Keys
from portal.core.i18n import N_, gettext
from portal.core.tls_client import TlsFault
from portal.services.upstreams import bind_refusals, binds, upstreams
from portal.services.upstreams.reasons import translate_reason
from portal.services.upstreams.setting_labels import get_setting_label
from portal.services.upstreams.settings import RULES, UpstreamSettings, parse_setting
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

_KINDS = {"trx": N_("transceiver"), "tx": N_("transmitter"), "rx": N_("receiver")}

# What to call for some of them, with the upstream's name.
_COMMANDS: Mapping[int, str] = {
    CommandStatus.ESME_RINVPASWD: "upstream change {} --password-stdin",
    CommandStatus.ESME_RALYBND: "upstream disable {}",
}

# What carriers answer that allow as many binds as the server holds. They check system_id and password first, or say
# RINVPASWD and RINVSYSID of these; and the server is bound with the same ones.
_NO_FURTHER_BIND = (
    CommandStatus.ESME_RALYBND,
    CommandStatus.ESME_RBINDFAIL,
    CommandStatus.ESME_RSYSERR,
    CommandStatus.ESME_RBINDTHROTTLED,
)

# Names of settings stand in these as whoever reads them knows them.
_TLS_REMEDIES: Mapping[TlsFault, str] = {
    TlsFault.EXPIRED: N_("The carrier has to renew it (is this machine's clock right?)"),
    TlsFault.NOT_YET_VALID: N_("Is this machine's clock right?"),
    TlsFault.OTHER_NAME: N_(
        "Give the name that the carrier's letter has for it (%(tls_server_name)s), and find out who answers here where"
        " it has none"
    ),
    TlsFault.UNKNOWN_AUTHORITY: N_("Give the carrier's own authority (%(tls_ca_file)s)"),
    TlsFault.UNTRUSTED: N_("Ask the carrier about its certificate"),
    TlsFault.CERTIFICATE_DEMANDED: N_(
        "Give the one that the carrier has signed for you (%(tls_certificate)s, %(tls_key)s)"
    ),
    TlsFault.CERTIFICATE_REFUSED: N_(
        "Compare %(tls_certificate)s with what the carrier has signed for you: whether it has expired, and whether the"
        " file has the whole chain"
    ),
    TlsFault.CERTIFICATE_MAYBE_DEMANDED: N_(
        "See the carrier's letter for a client certificate (%(tls_certificate)s), and for the versions and ciphers that"
        " it allows"
    ),
    TlsFault.HANDSHAKE_REFUSED: N_("See the carrier's letter for the versions and ciphers that it allows"),
    TlsFault.OTHER_VERSION: N_(
        "See %(tls_minimum)s; a carrier with nothing newer than TLS 1.1 can't be reached by TLS"
    ),
    TlsFault.NO_TLS: N_("Try %(no_tls)s, or the carrier's other port"),
    TlsFault.OTHER: N_("Ask the carrier what its server expects, and whether it knows this machine's address"),
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


@dataclass(frozen=True, slots=True)
class Wording:
    """How a test names what its reader has to do.

    `format_command` gives a command as it has to be typed, None: its reader has a page. `name_setting` gives the name
    of a setting as the reader knows it, and `no_tls` that of TLS switched off.
    """

    format_command: Callable[[str], str] | None = str
    name_setting: Callable[[str], str] = str
    no_tls: str = "--no-tls"


def name_option(setting: str) -> str:
    """A setting as the option of a command."""
    return f"--{setting.replace('_', '-')}"


SHELL_WORDING = Wording(name_setting=name_option)


_PAGE_WORDING = Wording(None, lambda setting: f"“{get_setting_label(setting)}”")


def probe(conn: sqlite3.Connection, keys: Keys) -> None:
    """Test what stdin has as a JSON object, for a page: `language`; `name`; `settings`, as `parse_setting` reads them;
    `password`; `seconds`, after which this process ends by itself, also where nobody waits for it any more; and
    `upstream`, the id of one that is there, whose password counts where none is given, and whose binds that the server
    holds may be all that the carrier allows. Writes each step as a JSON object on a line of its own.
    """
    try:
        asked = json.load(sys.stdin)
        language, name, given, password, upstream_id, seconds = (
            asked[each] for each in ("language", "name", "settings", "password", "upstream", "seconds")
        )
        settings = UpstreamSettings(**{each: parse_setting(each, value) for each, value in given.items()})  # type: ignore[arg-type]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        wrong_usage("stdin has no test of a connection: a page starts this; to test an upstream, see upstream test")
    i18n.use_language(language)
    signal.alarm(seconds)
    try:
        _run_probe(conn, keys, name, settings, password, upstream_id)
    finally:
        signal.alarm(0)


def _run_probe(
    conn: sqlite3.Connection,
    keys: Keys,
    name: str,
    settings: UpstreamSettings,
    password: str,
    upstream_id: int | None,
) -> None:
    upstream = upstreams.get_upstream_by_id(conn, upstream_id) if upstream_id else None
    is_stored = False
    if upstream is not None and not password:
        # It may have been changed since the page was asked.
        upstreams.check_stored_password(upstream, settings)
        password = upstreams.get_upstream_password(conn, keys, upstream)
        is_stored = upstream.settings == settings

    def write(step: ConnectionStep) -> None:
        if upstream and is_stored and binds.get_upstream_state(conn, upstream.id).state == binds.BOUND:
            step = excuse_refused_bind(step)
        print(json.dumps(asdict(step)), flush=True)

    run_connection_test(name, settings, password, replace(_PAGE_WORDING, no_tls=gettext("without TLS")), write)


class _StepFailed(Exception):
    def __init__(self, step: str, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.step = step
        self.status = status


class _HostTest:
    """The test of one host.

    Args:
        number: of the host, from 0.
        tell: is told each step.
    """

    def __init__(
        self, settings: ClientSettings, number: int, wording: Wording, tell: Callable[[ConnectionStep], None]
    ) -> None:
        self.settings = settings
        self._host = f"{settings.host}:{settings.port}"
        self._wording = wording
        self._tell = tell
        self._names = {name: wording.name_setting(name) for name in RULES} | {"no_tls": wording.no_tls}
        if number:
            self._names |= {name: self._names[f"second_{name}"] for name in ("host", "port")}

    def say(self, sentence: str, **params: object) -> str:
        """A sentence in the reader's language, with the names of settings and other parameters."""
        return gettext(sentence, **self._names | params)

    def fail(self, step: str, sentence: str, **params: object) -> _StepFailed:
        return _StepFailed(step, self.say(sentence, **params))

    def fail_by_refusal(self, kind: str, status: int) -> _StepFailed:
        detail = self.say(
            N_("the carrier refuses the %(kind)s with %(status)s: %(meaning)s"),
            kind=kind,
            status=format_status(status),
            meaning=bind_refusals.explain_bind_refusal(status, self._wording.name_setting),
        )
        return _StepFailed("bind", detail, status)

    def report(self, step: str, detail: str) -> None:
        self._tell(ConnectionStep(self._host, step, True, detail))

    def report_failure(self, failure: _StepFailed) -> None:
        detail = str(failure)
        command, format_command = _COMMANDS.get(failure.status), self._wording.format_command
        if command and format_command is not None:
            detail += f" ({format_command(command.format(self.settings.name))})"
        self._tell(ConnectionStep(self._host, failure.step, False, detail, failure.status))


def run_connection_test(
    name: str,
    settings: UpstreamSettings,
    password: str,
    wording: Wording = SHELL_WORDING,
    tell: Callable[[ConnectionStep], None] = lambda step: None,
) -> list[ConnectionStep]:
    """Bind with an upstream's settings, and unbind: at its host, and then at its second one, where it has any. The
    first step that fails is the last one of its host.

    It takes as long as the settings give each step: a minute and more where nothing answers.

    Args:
        name: the upstream's, for the log and for commands that are told.
        tell: is told each step as soon as it is over.
    """
    client_settings = ClientSettings(**asdict(settings), name=name, password=password)
    steps: list[ConnectionStep] = []

    def note(step: ConnectionStep) -> None:
        steps.append(step)
        tell(step)

    for number, (host, port) in enumerate(client_settings.hosts):
        asyncio.run(_test_host(_HostTest(replace(client_settings, host=host, port=port), number, wording, note)))
    return steps


def excuse_refused_bind(step: ConnectionStep) -> ConnectionStep:
    """Return the step of a test beside which the server has held all binds that the upstream should have. That the
    carrier allows no further one is as it should be then, and the end of the test.
    """
    if step.status not in _NO_FURTHER_BIND:
        return step
    detail = gettext(
        "the carrier allows no further bind (%(status)s) while the server holds its own, with the same settings: as it"
        " should be",
        status=format_status(step.status),
    )
    return replace(step, ok=True, detail=detail)


async def _test_host(test: _HostTest) -> None:
    try:
        addresses = await _resolve(test)
        for kind in test.settings.bind.split("+"):
            await _test_bind(test, kind, addresses)
    except _StepFailed as failure:
        test.report_failure(failure)


async def _resolve(test: _HostTest) -> Sequence[str]:
    settings, resolver = test.settings, HostResolver()
    try:
        async with asyncio.timeout(settings.connect_seconds):
            addresses = await resolver.resolve(settings.host)
    except TimeoutError:
        raise test.fail(
            "resolve",
            N_("no answer about %(name)s in %(seconds)s s: look at this machine's DNS"),
            name=settings.host,
            seconds=f"{settings.connect_seconds:g}",
        ) from None
    except (OSError, UnicodeError) as error:
        raise test.fail(
            "resolve",
            N_("there is no address of %(name)s: %(reason)s. Compare %(host)s with the carrier's letter"),
            name=settings.host,
            reason=_describe(error),
        ) from None
    if addresses != [settings.host]:
        test.report(
            "resolve", test.say(N_("%(name)s is %(addresses)s"), name=settings.host, addresses=", ".join(addresses))
        )
    return addresses


async def _test_bind(test: _HostTest, kind: str, addresses: Sequence[str]) -> None:
    settings = test.settings
    try:
        bind_octets = encode_bind(settings, kind)
    except ValueError as error:
        raise _StepFailed("bind", str(error)) from None
    opened = await _connect(test, addresses)
    session = _TestSession(kind, bind_octets, settings)
    try:
        started_at = time.monotonic()
        await _begin_session(test, session, opened)
        opened_in = _format_ms(started_at)
        await _wait_for_bind(test, session, opened_in)
        await _ask_whether_alive(test, session)
        session.unbind("the test is over")
        await session.ended
    except BaseException:
        session.discard()
        raise
    finally:
        opened.close()
    detail = (
        test.say(N_("done"))
        if session.is_unbound
        else test.say(N_("the carrier hasn't answered it; the connection was closed"))
    )
    if session.refused_count:
        detail += ". " + test.say(
            N_("What it has sent meanwhile (%(count)s) was answered with ESME_RX_T_APPN, to be sent again"),
            count=session.refused_count,
        )
    test.report("unbind", detail)


async def _connect(test: _HostTest, addresses: Sequence[str]) -> socket.socket:
    """Open a TCP connection to the first of the addresses that takes one."""
    loop, settings = asyncio.get_running_loop(), test.settings
    failures = []
    for address in addresses:
        target = test.say(N_("%(address)s port %(number)s"), address=address, number=settings.port)
        started_at = time.monotonic()
        opened: socket.socket | None = None
        try:
            # A machine may have no sockets of this family.
            opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            opened.setblocking(False)
            async with asyncio.timeout(settings.connect_seconds):
                await loop.sock_connect(opened, (address, settings.port))
        except TimeoutError:
            sentence = N_(
                "no answer of %(target)s in %(seconds)s s: a firewall is between, or the carrier lets only addresses"
                " connect that it knows (tell it this machine's)"
            )
            failures.append(test.say(sentence, target=target, seconds=f"{settings.connect_seconds:g}"))
        except ConnectionRefusedError:
            sentence = N_(
                "%(target)s refuses the connection: compare %(port)s with the carrier's letter, and whether that port"
                " is with TLS"
            )
            failures.append(test.say(sentence, target=target))
        except OSError as error:
            sentence = N_("no connection to %(target)s: %(reason)s. Is there a way from this machine to it?")
            failures.append(test.say(sentence, target=target, reason=_describe(error)))
        else:
            test.report(
                "connect", test.say(N_("%(target)s answers in %(time)s"), target=target, time=_format_ms(started_at))
            )
            return opened
        if opened:
            opened.close()
    raise _StepFailed("connect", "; ".join(failures))


async def _begin_session(test: _HostTest, session: _TestSession, opened: socket.socket) -> None:
    """Let the session have the connection, with TLS where that is set: it sends its bind at once."""
    loop, settings = asyncio.get_running_loop(), test.settings
    if not settings.tls:
        await loop.create_connection(lambda: session, sock=opened)
        return
    try:
        tls_context = await asyncio.to_thread(create_tls_context, settings)
    except (OSError, ValueError) as error:
        raise test.fail(
            "tls", N_("%(reason)s. See %(tls_ca_file)s, %(tls_certificate)s and %(tls_key)s"), reason=error
        ) from None
    server_name = settings.tls_server_name or settings.host
    try:
        async with asyncio.timeout(settings.connect_seconds):
            await loop.create_connection(lambda: session, sock=opened, ssl=tls_context, server_hostname=server_name)
    except ssl.SSLError as error:
        raise _build_tls_failure(test, error) from None
    except (TimeoutError, OSError) as error:
        if isinstance(error, TimeoutError) and not error.errno:
            why = test.say(N_("no answer in %(seconds)s s"), seconds=f"{settings.connect_seconds:g}")
        else:
            why = translate_reason(describe_error(error, settings))
        raise test.fail(
            "tls",
            N_("%(name)s port %(number)s doesn't speak TLS: %(why)s. Try %(no_tls)s, or the carrier's other port"),
            name=settings.host,
            number=settings.port,
            why=why,
        ) from None


def _build_tls_failure(test: _HostTest, error: ssl.SSLError) -> _StepFailed:
    settings = test.settings
    shows_certificate = bool(settings.tls_certificate)
    fault = tls_client.classify_failure(error, shows_certificate=shows_certificate)
    why = translate_reason(tls_client.describe_failure(error, shows_certificate=shows_certificate))
    return test.fail(
        "tls",
        N_("%(name)s port %(number)s: %(why)s. %(remedy)s"),
        name=settings.host,
        number=settings.port,
        why=why,
        remedy=test.say(_TLS_REMEDIES[fault]),
    )


async def _wait_for_bind(test: _HostTest, session: _TestSession, opened_in: str) -> None:
    settings, started_at = test.settings, time.monotonic()
    # The session ends where the answer doesn't come in time.
    await asyncio.wait((session.bound, session.ended), return_when=asyncio.FIRST_COMPLETED)
    kind = gettext(_KINDS[session.kind])
    if settings.tls:
        # With TLS 1.3 what the carrier says of the client's certificate comes in place of the answer to the bind.
        if isinstance(session.lost_by, ssl.SSLError):
            raise _build_tls_failure(test, session.lost_by)
        test.report("tls", _describe_tls(test, session.tls, opened_in))
    if session.bind_status:
        raise test.fail_by_refusal(kind, session.bind_status)
    if not session.bound.done():
        hint = test.say(
            N_(
                "Carriers do so with addresses that they don't know: tell it this machine's; and without the client"
                " certificate that they want (%(tls_certificate)s)"
            )
            if settings.tls
            else N_("Is the port with TLS (%(tls)s)? Carriers do so with addresses that they don't know, too")
        )
        if session.end_reason.endswith(BIND_UNANSWERED):
            sentence = N_("no answer to the bind (%(kind)s) in %(seconds)s s. %(hint)s")
            raise test.fail("bind", sentence, kind=kind, seconds=f"{settings.bind_seconds:g}", hint=hint)
        why = translate_reason(session.end_reason)
        raise test.fail(
            "bind", N_("%(why)s instead of answering the bind (%(kind)s). %(hint)s"), why=why, kind=kind, hint=hint
        )
    sentence = N_("%(kind)s, as %(login)s, in %(time)s")
    test.report("bind", test.say(sentence, kind=kind, login=settings.system_id, time=_format_ms(started_at)))


def _describe_tls(test: _HostTest, version: str, opened_in: str) -> str:
    settings = test.settings
    trust = (
        test.say(N_("its certificate is %(name)s's"), name=settings.tls_server_name or settings.host)
        if settings.tls_verify
        else test.say(N_("its certificate wasn't looked at"))
    )
    described = test.say(N_("%(version)s in %(time)s, %(trust)s"), version=version, time=opened_in, trust=trust)
    if settings.tls_certificate:
        described += "; " + test.say(N_("ours is in %(file)s"), file=settings.tls_certificate)
    return described


async def _ask_whether_alive(test: _HostTest, session: _TestSession) -> None:
    settings, started_at = test.settings, time.monotonic()
    session.send_enquire_link()
    answers = (session.is_alive, session.ended)
    await asyncio.wait(answers, timeout=settings.bind_seconds, return_when=asyncio.FIRST_COMPLETED)
    if not session.is_alive.done():
        silent = test.say(N_("no answer in %(seconds)s s"), seconds=f"{settings.bind_seconds:g}")
        why = translate_reason(session.end_reason) if session.end_reason else silent
        sentence = N_("%(why)s, just after the bind. Does the carrier allow one bind more than the server has?")
        raise test.fail("enquire_link", sentence, why=why)
    test.report("enquire_link", test.say(N_("answered in %(time)s"), time=_format_ms(started_at)))


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
