"""A small SMPP client: it sends one message and waits for its receipt, or sends now and then and takes what comes."""

import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, cycle
from typing import Never

from portal.core import gsm0338, tls_client
from portal.core.config import SmppSettings, bracket_ipv6, wildcard_to_loopback
from portal.demo import history_seed
from portal.demo.fixtures import SENDER
from portal.services.common.errors import Refused
from portal.services.prices import countries
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import ESM_CLASS_RECEIPT, CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import Bind, BindResp, DeliverSm, HeaderOnlyPdu, MessageResp, SubmitSm

_CONNECTION_HINT = "Is the demo running? If on another port, set PORTAL_SMPP_PORT here too."
# SMPP 3.4, 5.2.5 and 5.2.6.
_TON_ALPHANUMERIC, _TON_INTERNATIONAL, _NPI_E164 = 5, 1, 1
_RECEIPT_REQUESTED = 1
_SHORT_MESSAGE_OCTETS = 254
_TIMEOUT_S = 40
# Seconds between two messages; and until a session that has ended is opened again, twice as long after each bind that
# fails: more of them in a minute, and the server would take none from this machine.
_PAUSE_S, _RECONNECT_S, _LONGEST_RECONNECT_S = (3, 20), 10, 600
# How the numbers end that it sends to: some that the simulator delivers to after half a minute, or not at all.
_ENDS = ("", "", "005", "", "", "001", "", "", "005", "", "", "008")

_REMEDIES: dict[int, str] = {
    CommandStatus.ESME_RINVPASWD: (
        ": the password was replaced (then give the new one with --password), or this address is no authorised IP any"
        " more; the page tells under Sessions"
    ),
    CommandStatus.ESME_RALYBND: ": another client of the account is connected; the page shows it under Sessions",
}


class DemoSendFailed(Refused):
    sentence = "%(what)s: %(reason)s"


def send_message(
    smpp: SmppSettings, system_id: str, password: str, destination: str, text: str, *, timeout_s: float = _TIMEOUT_S
) -> Iterator[str]:
    """Send a message as an SMPP client does.

    Args:
        smpp: where the server listens; the unsecured port is used if there is one.
        destination: a phone number, as people write it.
        timeout_s: seconds to wait for each answer, and for the receipt.

    Yields:
        Lines of text that report the progress.

    Raises:
        DemoSendFailed
    """
    with _open_session(smpp, system_id, password, timeout_s) as session:
        yield f"bound as {system_id}"
        number = countries.strip_separators(destination)
        accepted = session.send_request(_build_submit_sm(next(session.sequences), number, text))
        assert isinstance(accepted, MessageResp)
        yield f"accepted: message id {accepted.message_id}"
        yield "waiting for its receipt"
        session.take_deliveries(timeout_s, accepted.message_id)
        if accepted.message_id not in session.receipts:
            yield f"no receipt within {timeout_s} s: it comes when the message has ended"
            return
        yield f"receipt: {session.receipts[accepted.message_id]}"
        for each in session.incoming:
            alphabet = gsm0338.get_alphabet(each.data_coding, None)
            yield f"message from {each.source}: {gsm0338.decode_as_displayed(each.body, alphabet)}"


def send_all_the_while(smpp: SmppSettings, system_id: str, password: str) -> Never:
    """Be the client of an account, in a thread of its own, until the process ends: send a message now and then, and
    take the receipts. Whatever ends the session, it is opened again.

    Args:
        smpp: as for `send_message`.
    """
    rng = random.Random()
    reconnect_s = _RECONNECT_S
    while True:
        with suppress(DemoSendFailed), _open_session(smpp, system_id, password) as session:
            reconnect_s = _RECONNECT_S
            for end in cycle(_ENDS):
                number, text = history_seed.invent_destination(rng, end), history_seed.invent_text(rng)
                submit = _build_submit_sm(next(session.sequences), number, text)
                # Where the account has run out of credits, say; the page tells under Refused.
                with suppress(DemoSendFailed):
                    session.send_request(submit)
                session.take_deliveries(rng.uniform(*_PAUSE_S))
                session.receipts.clear()
                session.incoming.clear()
        time.sleep(reconnect_s)
        reconnect_s = min(2 * reconnect_s, _LONGEST_RECONNECT_S)


@contextmanager
def _open_session(
    smpp: SmppSettings, system_id: str, password: str, timeout_s: float = _TIMEOUT_S
) -> Iterator["_DemoSmppSession"]:
    """Open a session, and unbind at the end of the block.

    Raises:
        DemoSendFailed: it can't be opened, or has ended.
    """
    host, port = wildcard_to_loopback(smpp.host), smpp.port or smpp.tls_port
    address = f"{bracket_ipv6(host)}:{port}"
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as tcp_socket:
            if not smpp.port:
                # The demo's certificate is self-signed and was created on the same machine: it can't be verified.
                tcp_socket = tls_client.create_client_context(verify=False).wrap_socket(tcp_socket)
            session = _DemoSmppSession(tcp_socket)
            session.send_request(Bind(CommandId.BIND_TRANSCEIVER, next(session.sequences), system_id, password))
            yield session
            session.send_request(HeaderOnlyPdu(CommandId.UNBIND, next(session.sequences)))
    except (OSError, pdu.MalformedPdu) as error:
        raise DemoSendFailed(what=address, reason=f"{error}. {_CONNECTION_HINT}") from None


def _build_submit_sm(sequence: int, destination: str, text: str) -> SubmitSm:
    encoding = gsm0338.choose_encoding(text)
    body = gsm0338.encode_body(text, encoding)
    short = len(body) <= _SHORT_MESSAGE_OCTETS
    return SubmitSm(
        sequence,
        source_ton=_TON_ALPHANUMERIC,
        source=SENDER,
        dest_ton=_TON_INTERNATIONAL,
        dest_npi=_NPI_E164,
        destination=destination,
        registered_delivery=_RECEIPT_REQUESTED,
        data_coding=encoding,
        short_message=body if short else b"",
        tlvs={} if short else {TlvTag.MESSAGE_PAYLOAD: body},
    )


class _DemoSmppSession:
    """A session that accepts each deliver_sm: `receipts` are texts by the message's id, `incoming` all others."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._timeout_s = connection.gettimeout()
        self._received = b""
        self.sequences = count(1)
        self.receipts: dict[str, str] = {}
        self.incoming: list[DeliverSm] = []

    def send_request(self, request: Bind | SubmitSm | HeaderOnlyPdu) -> BindResp | MessageResp | HeaderOnlyPdu:
        """Send a request and return its response.

        Raises:
            DemoSendFailed: it is refused.
        """
        self._connection.sendall(request.encode())
        while True:
            response = self._read_pdu()
            if response and response.sequence == request.sequence:
                if response.status:
                    # The server of this program answers nothing that has no name.
                    reason = f"refused with {CommandStatus(response.status).name}{_REMEDIES.get(response.status, '')}"
                    raise DemoSendFailed(what=type(request).__name__, reason=reason)
                return response

    def take_deliveries(self, seconds: float, message_id: str | None = None) -> None:
        """Accept what comes for so long, or until a message's receipt has come."""
        deadline = time.monotonic() + seconds
        with suppress(TimeoutError):
            while message_id not in self.receipts and (left := deadline - time.monotonic()) > 0:
                self._read_pdu(left)

    def _read_pdu(self, timeout_s: float | None = None) -> BindResp | MessageResp | HeaderOnlyPdu | None:
        """Read the next PDU; return it if it is a response, and answer it if it is a request.

        Raises:
            TimeoutError: none has come; what has come of one stays.
        """
        self._receive(pdu.HEADER_LENGTH, timeout_s)
        header = pdu.decode_header(self._received, 0)
        assert header is not None
        self._receive(header.length, timeout_s)
        received = pdu.decode_pdu(header, self._received[pdu.HEADER_LENGTH : header.length])
        self._received = self._received[header.length :]
        if isinstance(received, DeliverSm):
            if received.esm_class & ESM_CLASS_RECEIPT:
                receipted_id = received.tlvs.get(TlvTag.RECEIPTED_MESSAGE_ID, b"").rstrip(b"\0").decode("latin-1")
                self.receipts[receipted_id] = received.short_message.decode("latin-1")
            else:
                self.incoming.append(received)
            self._connection.sendall(MessageResp(CommandId.DELIVER_SM_RESP, received.sequence).encode())
        elif isinstance(received, HeaderOnlyPdu) and received.command in (CommandId.ENQUIRE_LINK, CommandId.UNBIND):
            self._connection.sendall(pdu.encode_response(received.command, received.sequence))
        elif isinstance(received, BindResp | MessageResp | HeaderOnlyPdu):
            return received
        return None

    def _receive(self, octets: int, timeout_s: float | None) -> None:
        """Have at least so many octets of what comes next."""
        self._connection.settimeout(self._timeout_s if timeout_s is None else timeout_s)
        try:
            while len(self._received) < octets:
                data = self._connection.recv(4096)
                if not data:
                    raise ConnectionError("the server closed the connection")
                self._received += data
        finally:
            self._connection.settimeout(self._timeout_s)
