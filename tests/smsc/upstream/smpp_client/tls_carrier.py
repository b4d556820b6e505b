"""A carrier with TLS and authorities of its own: certificates of all kinds, and an SMSC that may demand a client's."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId
from portal.smsc.protocol.pdu import BindResp, HeaderOnlyPdu
from tests.smsc.upstream.smpp_client.carrier import BIND_COMMANDS
from tests.support import DEADLINE_S

SERVER_NAME = "smpp.carrier.example"
_DAY = datetime.timedelta(days=1)


class Authority:
    """An authority that signs certificates. `ca_file`: its own one, in PEM."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _build_name(name)
        builder = _begin_certificate(self._name, self._name, self._key.public_key(), -_DAY, _DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.ca_file = folder / f"{name}.crt"
        self.ca_file.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        )

    def issue(
        self,
        name: str,
        *,
        since: datetime.timedelta = -_DAY,
        until: datetime.timedelta = _DAY,
        passphrase: str = "",
        file: str = "",
    ) -> tuple[Path, Path]:
        """Sign a certificate for a name; return its file and its key's, whose names begin with `file` or the name."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _begin_certificate(_build_name(name), self._name, key.public_key(), since, until)
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        certificate_file, key_file = self._folder / f"{file or name}.crt", self._folder / f"{file or name}.key"
        certificate_file.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        )
        encryption: serialization.KeySerializationEncryption = (
            serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
        )
        key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        key_file.chmod(0o600)
        return certificate_file, key_file


def _build_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _begin_certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    since: datetime.timedelta,
    until: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since)
        .not_valid_after(now + until)
    )


class TlsCarrier:
    """The SMSC. It says yes to everything, one connection after the other.

    `port`: where it listens. `client_names`: whose certificates clients have shown, "" where it was none.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._connection: ssl.SSLSocket | None = None
        self._closing = False
        self.port = self._listening.getsockname()[1]
        self.client_names: list[str] = []

    def serve(self) -> None:
        """Take connections until it is closed."""
        while not self._closing:
            # A ValueError: it is cut in the middle of reading.
            with suppress(OSError, ValueError):
                accepted, _ = self._listening.accept()
                accepted.settimeout(DEADLINE_S)
                with self._context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as connection:
                    self._connection = connection
                    self._serve_connection(connection)

    def _serve_connection(self, connection: ssl.SSLSocket) -> None:
        try:
            # Of a blocking socket: asyncio does not send the alert of a handshake that fails.
            connection.do_handshake()
        except ssl.SSLError:
            # A close with octets unread would be a reset, which may overtake the alert.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
            return
        shown = connection.getpeercert(binary_form=True)
        subject = x509.load_der_x509_certificate(shown).subject if shown else None
        names = subject.get_attributes_for_oid(NameOID.COMMON_NAME) if subject else []
        self.client_names.append("".join(str(each.value) for each in names))
        with connection.makefile("rb") as stream:
            while octets := stream.read(pdu.HEADER_LENGTH):
                header = pdu.decode_header(octets, 0)
                assert header
                stream.read(header.length - pdu.HEADER_LENGTH)
                connection.sendall(_build_answer(header).encode())

    def cut(self) -> None:
        """End the connection that there is."""
        assert self._connection
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closing = True
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        if self._connection:
            self.cut()


def _build_answer(header: pdu.PduHeader) -> BindResp | HeaderOnlyPdu:
    command = CommandId(header.command | RESPONSE_BIT)
    if header.command in BIND_COMMANDS:
        return BindResp(command, header.sequence, system_id="CARRIER")
    return HeaderOnlyPdu(command, header.sequence)


@contextmanager
def run_tls_carrier(
    certificate: Path, key: Path, *, client_ca: Path | None = None, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> Iterator[TlsCarrier]:
    """Run one with a certificate; with `client_ca` it demands one of that authority from clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.maximum_version = maximum
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    carrier = TlsCarrier(context)
    thread = threading.Thread(target=carrier.serve)
    thread.start()
    try:
        yield carrier
    finally:
        carrier.close()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
