"""A small SMPP client: binds, sends one message, waits for its receipt, shows messages from handsets, unbinds."""

import socket
import time
from collections.abc import Iterator
from itertools import count
from typing import TypeVar

from portal.core import gsm0338, tls_client
from portal.core.config import SmppSettings, bracket_ipv6, wildcard_to_loopback
from portal.services.common.errors import Refused
from portal.services.prices import countries
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import ESM_CLASS_RECEIPT, CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import Bind, BindResp, DeliverSm, HeaderOnlyPdu, MessageResp, Pdu, SubmitSm

_TIMEOUT_S = 40
_CONNECTION_HINT = "Is the demo running? If on another port, set PORTAL_SMPP_PORT here too."
# SMPP 3.4, 5.2.5 and 5.2.6.
_TON_ALPHANUMERIC, _TON_INTERNATIONAL, _NPI_E164 = 5, 1, 1
_RECEIPT_REQUESTED = 1
_SHORT_MESSAGE_OCTETS = 254

_REMEDIES: dict[int, str] = {
    CommandStatus.ESME_RINVPASWD: (
        ": the password was replaced (then give the new one with --password), or this address is no authorised IP any"
        " more; the page tells under Sessions"
    ),
    CommandStatus.ESME_RALYBND: ": another client of the account is connected; the page shows it under Sessions",
}

P = TypeVar("P", bound=Pdu)


class DemoSendFailed(Refused):
    sentence = "%(what)s: %(reason)s"


def send_message(
    smpp: SmppSettings,
    system_id: str,
    password: str,
    source: str,
    destination: str,
    text: str,
    *,
    timeout_s: float = _TIMEOUT_S,
) -> Iterator[str]:
    """Send a message as an SMPP client does.

    Args:
        smpp: where the server listens; the unsecured port is used if there is one.
        source: alphanumeric sender.
        destination: a phone number, as people write it.
        timeout_s: seconds to wait for each answer, and for the receipt.

    Yields:
        Lines of text that report the progress.

    Raises:
        DemoSendFailed
    """
    host, port = wildcard_to_loopback(smpp.host), smpp.port or smpp.tls_port
    address = f"{bracket_ipv6(host)}:{port}"
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as tcp_socket:
            if not smpp.port:
                # The demo's certificate is self-signed and was created on the same machine: it can't be verified.
                tcp_socket = tls_client.create_client_context(verify=False).wrap_socket(tcp_socket)
            session = _DemoSmppSession(tcp_socket, timeout_s)
            yield from session.send_and_wait(system_id, password, source, countries.strip_separators(destination), text)
    except (OSError, pdu.MalformedPdu) as error:
        raise DemoSendFailed(what=address, reason=f"{error}. {_CONNECTION_HINT}") from None


class _DemoSmppSession:
    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._connection = connection
        self._stream = connection.makefile("rb")
        self._sequences = count(1)
        self._incoming: list[DeliverSm] = []

    def send_and_wait(self, system_id: str, password: str, source: str, destination: str, text: str) -> Iterator[str]:
        self._send_request(Bind(CommandId.BIND_TRANSCEIVER, next(self._sequences), system_id, password), BindResp)
        yield f"bound as {system_id}"
        message_id = self._send_request(self._build_submit_sm(source, destination, text), MessageResp).message_id
        yield f"accepted: message id {message_id}"
        yield "waiting for its receipt"
        receipt = self._wait_for_receipt(message_id)
        if not receipt:
            yield f"no receipt within {self._timeout_s} s: it comes when the message has ended"
            return
        yield f"receipt: {receipt}"
        for each in self._incoming:
            alphabet = gsm0338.get_alphabet(each.data_coding, None)
            yield f"message from {each.source}: {gsm0338.decode_as_displayed(each.body, alphabet)}"
        self._send_request(HeaderOnlyPdu(CommandId.UNBIND, next(self._sequences)), HeaderOnlyPdu)

    def _build_submit_sm(self, source: str, destination: str, text: str) -> SubmitSm:
        encoding = gsm0338.choose_encoding(text)
        body = gsm0338.encode_body(text, encoding)
        short = len(body) <= _SHORT_MESSAGE_OCTETS
        return SubmitSm(
            next(self._sequences),
            source_ton=_TON_ALPHANUMERIC,
            source=source,
            dest_ton=_TON_INTERNATIONAL,
            dest_npi=_NPI_E164,
            destination=destination,
            registered_delivery=_RECEIPT_REQUESTED,
            data_coding=encoding,
            short_message=body if short else b"",
            tlvs={} if short else {TlvTag.MESSAGE_PAYLOAD: body},
        )

    def _send_request(self, request: Bind | SubmitSm | HeaderOnlyPdu, response_type: type[P]) -> P:
        """Send a request and return its response; deliver_sm that come in between are accepted."""
        self._connection.sendall(request.encode())
        while True:
            received = self._read_pdu()
            if received.sequence == request.sequence and isinstance(received, response_type):
                if isinstance(received, (BindResp, MessageResp, HeaderOnlyPdu)) and received.status:
                    reason = f"refused with {_get_status_name(received.status)}{_REMEDIES.get(received.status, '')}"
                    raise DemoSendFailed(what=type(request).__name__, reason=reason)
                return received

    def _wait_for_receipt(self, message_id: str) -> str:
        """Return the text of a message's receipt; empty: it has not come in time."""
        deadline = time.monotonic() + self._timeout_s
        # The server sends enquire_link regularly, so no read blocks for long.
        while time.monotonic() < deadline:
            try:
                received = self._read_pdu()
            except TimeoutError:
                break
            if isinstance(received, DeliverSm):
                receipted_id = received.tlvs.get(TlvTag.RECEIPTED_MESSAGE_ID, b"").rstrip(b"\0").decode("latin-1")
                if receipted_id == message_id:
                    return received.short_message.decode("latin-1")
        return ""

    def _read_pdu(self) -> Pdu:
        """Read the next PDU, and send the response if it is a request."""
        header = pdu.decode_header(self._read_exactly(pdu.HEADER_LENGTH), 0)
        assert header is not None
        received = pdu.decode_pdu(header, self._read_exactly(header.length - pdu.HEADER_LENGTH))
        if isinstance(received, DeliverSm):
            if not received.esm_class & ESM_CLASS_RECEIPT:
                self._incoming.append(received)
            self._connection.sendall(MessageResp(CommandId.DELIVER_SM_RESP, received.sequence).encode())
        elif isinstance(received, HeaderOnlyPdu) and received.command in (CommandId.ENQUIRE_LINK, CommandId.UNBIND):
            self._connection.sendall(pdu.encode_response(received.command, received.sequence))
        return received

    def _read_exactly(self, octets: int) -> bytes:
        data = self._stream.read(octets)
        if len(data) < octets:
            raise ConnectionError("the server closed the connection")
        return data


def _get_status_name(status: int) -> str:
    return CommandStatus(status).name if status in set(CommandStatus) else f"0x{status:08X}"
