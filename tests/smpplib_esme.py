"""An SMPP client for tests, on smpplib: nobody here wrote what it says on the wire."""

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Self

from smpplib import client as smpplib
from smpplib import consts, exceptions, gsm, smpp

from tests.support import DEADLINE_S, AccountLogin, RunningServer

NUMBER = "393401234567"
"""A destination that the simulator delivers to after 0.2 s, in a country whose parts cost one credit."""

TRANSMITTER, RECEIVER, TRANSCEIVER = "bind_transmitter", "bind_receiver", "bind_transceiver"


class _DualStackClient(smpplib.Client):
    """smpplib itself makes IPv4 sockets only."""

    def _create_socket(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_STREAM)
        plain.settimeout(self.timeout)
        return self._ssl_context.wrap_socket(plain) if self._ssl_context else plain


class SmpplibEsme:
    """One connection to the server, used as a context manager: it ends, without an unbind, with its block.

    There is no thread: what the server sends is read when a method waits for it.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._client = _DualStackClient(host, port, timeout=DEADLINE_S, ssl_context=tls, allow_unknown_opt_params=True)
        self._responses: dict[int, Any] = {}
        self.receipts: dict[str, Any] = {}
        """deliver_sm PDUs, by their receipted_message_id."""
        self.got_unbind = False

    def __enter__(self) -> Self:
        try:
            self._client.connect()
        except exceptions.ConnectionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client._socket.close()
        self._client._socket = None

    @property
    def tls_version(self) -> str | None:
        version: str | None = self._client._socket.version()
        return version

    def bind(self, login: AccountLogin, kind: str = TRANSCEIVER, password: str | None = None) -> int:
        """Bind, with the account's own password or the one given; return the command_status."""
        bind_password = login.password if password is None else password
        try:
            answer = getattr(self._client, kind)(system_id=login.name, password=bind_password)
        except exceptions.PDUError as refused:
            return int(refused.args[1])
        return int(answer.status)

    def submit(self, body: bytes, to: str = NUMBER, source: str = "ACME", **fields: Any) -> Any:
        """Send one submit_sm that asks for a receipt; return its submit_sm_resp. `fields` are smpplib's."""
        return self.wait_for_response(self.submit_nowait(body, to, source, **fields))

    def submit_nowait(self, body: bytes, to: str = NUMBER, source: str = "ACME", **fields: Any) -> int:
        """As `submit`, without waiting: return the sequence_number, for `answer`."""
        alphanumeric = not source.isdigit()
        sent = self._client.send_message(
            source_addr_ton=consts.SMPP_TON_ALNUM if alphanumeric else consts.SMPP_TON_INTL,
            source_addr_npi=consts.SMPP_NPI_UNK if alphanumeric else consts.SMPP_NPI_ISDN,
            source_addr=source,
            dest_addr_ton=consts.SMPP_TON_INTL,
            dest_addr_npi=consts.SMPP_NPI_ISDN,
            destination_addr=to,
            registered_delivery=True,
            **({"short_message": body} | fields),
        )
        return int(sent.sequence)

    def wait_for_response(self, sequence: int) -> Any:
        """Wait for the answer to what was sent with this sequence_number."""
        self.read_until(lambda: sequence in self._responses)
        return self._responses.pop(sequence)

    def send_text(self, text: str, to: str = NUMBER, source: str = "ACME") -> list[str]:
        """Send a text as smpplib splits and encodes it; return the message ids, one a part."""
        parts, coding, esm_class = gsm.make_parts(text)
        answers = [self.submit(part, to, source, data_coding=coding, esm_class=esm_class) for part in parts]
        assert all(each.status == consts.SMPP_ESME_ROK for each in answers), [each.status for each in answers]
        return [each.message_id.decode() for each in answers]

    def wait_for_receipt(self, message_id: str) -> Any:
        """Wait for the receipt of a message; return its deliver_sm."""
        self.read_until(lambda: message_id in self.receipts)
        return self.receipts[message_id]

    def wait_for_unbind(self) -> None:
        """Wait until the server has sent an unbind, answer it, and see the connection closed."""
        self.read_until(lambda: self.got_unbind)
        assert self._client._socket.recv(1) == b"", "the server went on after its unbind"

    def read_until(self, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Read and answer what the server sends until `seen`."""
        deadline = time.monotonic() + deadline_s
        while not condition():
            self._client._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            self._handle_pdu(self._client.read_pdu())

    def _handle_pdu(self, pdu: Any) -> None:
        if pdu.command == "deliver_sm":
            self.receipts[pdu.receipted_message_id.decode().rstrip("\0")] = pdu
        self.got_unbind |= pdu.command == "unbind"
        if pdu.command.endswith("_resp") or pdu.command == "generic_nack":
            self._responses[pdu.sequence] = pdu
        else:
            answer = smpp.make_pdu(f"{pdu.command}_resp", client=self._client)
            answer.sequence = pdu.sequence
            self._client.send_pdu(answer)


def try_bind(server: RunningServer, login: AccountLogin, kind: str = TRANSCEIVER, password: str | None = None) -> int:
    """Try to bind on the unsecured port, and hang up; return the command_status."""
    with SmpplibEsme(server.port) as esme:
        return esme.bind(login, kind, password)
