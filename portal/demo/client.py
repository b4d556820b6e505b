"""A small SMPP client: binds, sends one message, waits for its receipt, shows what handsets have sent, unbinds."""

import socket
import ssl
import time
from collections.abc import Iterator
from itertools import count
from typing import TypeVar

from portal.core import gsm0338
from portal.core.config import Smpp, bracketed, reachable
from portal.services.common.errors import Refused
from portal.services.prices import countries
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import ESM_CLASS_RECEIPT, Command, Status, Tag
from portal.smsc.protocol.pdu import Bind, BindResp, DeliverSm, MessageResp, Pdu, Plain, SubmitSm

_TIMEOUT_S = 40
_HINT = "Is the demo running? If on another port, set PORTAL_SMPP_PORT here too."
# SMPP 3.4, 5.2.5 and 5.2.6.
_ALPHANUMERIC, _INTERNATIONAL, _E164 = 5, 1, 1
_RECEIPT_WANTED = 1
_SHORT_MESSAGE_OCTETS = 254

_REMEDIES: dict[int, str] = {
    Status.ESME_RINVPASWD: ": the password was replaced (then give the new one with --password), or this address is no"
    " authorised IP any more; the page tells under Sessions",
    Status.ESME_RALYBND: ": another client of the account is connected; the page shows it under Sessions",
}

P = TypeVar("P", bound=Pdu)


class CannotSend(Refused):
    sentence = "%(what)s: %(reason)s"


def send(smpp: Smpp, system_id: str, password: str, source: str, destination: str, text: str) -> Iterator[str]:
    """Send a message as an SMPP client does.

    Args:
        smpp: where the server listens; the unsecured port is taken if there is one.
        source: alphanumeric sender.
        destination: E.164 digits, as people write them.

    Yields:
        What happens, a line each.

    Raises:
        CannotSend
    """
    host, port = reachable(smpp.host), smpp.port or smpp.tls_port
    where = f"{bracketed(host)}:{port}"
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S) as plain:
            session = _Session(plain if smpp.port else _secured(plain))
            yield from session.talk(system_id, password, source, countries.plain(destination), text)
    except (OSError, pdu.Malformed) as error:
        raise CannotSend(what=where, reason=f"{error}. {_HINT}") from None


def _secured(plain: socket.socket) -> ssl.SSLSocket:
    # The demo's certificate is self-signed and made on the same machine: there is nobody to check it with.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)


class _Session:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")
        self._sequences = count(1)
        self._incoming: list[DeliverSm] = []

    def talk(self, system_id: str, password: str, source: str, destination: str, text: str) -> Iterator[str]:
        self._ask(Bind(Command.BIND_TRANSCEIVER, next(self._sequences), system_id, password), BindResp)
        yield f"bound as {system_id}"
        message_id = self._ask(self._submit(source, destination, text), MessageResp).message_id
        yield f"accepted: message id {message_id}"
        yield "waiting for its receipt"
        receipt = self._receipt(message_id)
        if not receipt:
            yield f"no receipt within {_TIMEOUT_S} s: it comes when the message has ended"
            return
        yield f"receipt: {receipt}"
        for each in self._incoming:
            yield f"message from {each.source}: {_text(each)}"
        self._ask(Plain(Command.UNBIND, next(self._sequences)), Plain)

    def _submit(self, source: str, destination: str, text: str) -> SubmitSm:
        encoding = gsm0338.choose(text)
        body = gsm0338.to_body(text, encoding)
        short = len(body) <= _SHORT_MESSAGE_OCTETS
        return SubmitSm(
            next(self._sequences),
            source_ton=_ALPHANUMERIC,
            source=source,
            dest_ton=_INTERNATIONAL,
            dest_npi=_E164,
            destination=destination,
            registered_delivery=_RECEIPT_WANTED,
            data_coding=encoding,
            short_message=body if short else b"",
            tlvs={} if short else {Tag.MESSAGE_PAYLOAD: body},
        )

    def _ask(self, request: Bind | SubmitSm | Plain, answer: type[P]) -> P:
        """Send a request and return its response; receipts of earlier messages that come in between are accepted."""
        self._connection.sendall(request.encode())
        while True:
            received = self._read()
            if received.sequence == request.sequence and isinstance(received, answer):
                if isinstance(received, (BindResp, MessageResp, Plain)) and received.status:
                    name = type(request).__name__
                    raise CannotSend(
                        what=name, reason=f"refused with {_name(received.status)}{_REMEDIES.get(received.status, '')}"
                    )
                return received

    def _receipt(self, message_id: str) -> str:
        """The text of a message's receipt; empty: it has not come in time."""
        ends = time.monotonic() + _TIMEOUT_S
        # The server asks now and then whether somebody is there: it is never silent for long.
        while time.monotonic() < ends:
            try:
                received = self._read()
            except TimeoutError:
                break
            if isinstance(received, DeliverSm):
                about = received.tlvs.get(Tag.RECEIPTED_MESSAGE_ID, b"").rstrip(b"\0").decode("latin-1")
                if about == message_id:
                    return received.short_message.decode("latin-1")
        return ""

    def _read(self) -> Pdu:
        """The next PDU; what the server wants an answer to has got it."""
        header = pdu.read_header(self._exactly(pdu.HEADER_LENGTH), 0)
        assert header is not None
        received = pdu.decode(header, self._exactly(header.length - pdu.HEADER_LENGTH))
        if isinstance(received, DeliverSm):
            if not received.esm_class & ESM_CLASS_RECEIPT:
                self._incoming.append(received)
            self._connection.sendall(MessageResp(Command.DELIVER_SM_RESP, received.sequence).encode())
        elif isinstance(received, Plain) and received.command in (Command.ENQUIRE_LINK, Command.UNBIND):
            self._connection.sendall(pdu.response(received.command, received.sequence))
        return received

    def _exactly(self, octets: int) -> bytes:
        read = self._stream.read(octets)
        if len(read) < octets:
            raise ConnectionError("the server closed the connection")
        return read


def _text(message: DeliverSm) -> str:
    if message.data_coding == gsm0338.Encoding.UCS2:
        return message.body.decode("utf-16-be")
    return gsm0338.decode(message.body)


def _name(status: int) -> str:
    try:
        return Status(status).name
    except ValueError:
        return f"0x{status:08X}"
