"""The TLS listener's context, what it answers to those whom it refuses, and a certificate where none is configured."""

import datetime
import ipaddress
import ssl
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from portal.core.tls_client import MINIMUM_VERSIONS

CERTIFICATE_NAME = "smpp.crt"
KEY_NAME = "smpp.key"
MAX_CLIENT_HELLO_LENGTH = 16 * 1024
"""Octets of a ClientHello, with the headers of its records, that are looked at. Usual ones have some hundred, or two
thousand where the keys are safe from quantum computers."""
_VALIDITY = datetime.timedelta(days=10 * 365)
# Of records and their messages (RFC 8446, 4 and 5.1).
_ALERT, _HANDSHAKE, _CLIENT_HELLO = 21, 22, 1
_RECORD_HEADER_LENGTH, _MESSAGE_HEADER_LENGTH = 5, 4
_MAX_RECORD_LENGTH = 1 << 14


def create_tls_context(certificate: Path, key: Path, minimum: str) -> ssl.SSLContext:
    """Return the server's context: TLS 1.3 (RFC 8446), and with `minimum` "1.2" that too, but nothing older.

    Raises ssl.SSLError or OSError when certificate (PEM, with its chain) and key can't be used together.
    """
    tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls_context.minimum_version = MINIMUM_VERSIONS[minimum]
    tls_context.load_cert_chain(certificate, key)
    return tls_context


class ClientHelloCounter:
    """Finds out how many octets a ClientHello has, as they come.

    Each record is looked at once: those who send many small ones cost no more than others.
    """

    def __init__(self) -> None:
        self._record_start = 0
        self._message_header = b""
        self._message_length = 0

    def count_needed(self, octets: bytes) -> int:
        """Return how many octets the ClientHello has, with the headers of its records.

        Args:
            octets: its beginning, or all of it, no less than at the call before. Where they don't tell the length yet,
                so many are returned as are needed to tell more. Where they are no ClientHello, their own number is
                returned: no more are needed.
        """
        while True:
            start = self._record_start
            fragment_start = start + _RECORD_HEADER_LENGTH
            if octets[start : start + 1] not in (b"", bytes((_HANDSHAKE,))):
                return len(octets)
            if len(octets) < fragment_start:
                return fragment_start
            length = int.from_bytes(octets[start + 3 : fragment_start])
            if not 0 < length <= _MAX_RECORD_LENGTH:
                return len(octets)
            if not start and octets[fragment_start : fragment_start + 1] not in (b"", bytes((_CLIENT_HELLO,))):
                return len(octets)
            end = fragment_start + length
            if len(octets) < end:
                return end
            self._message_header += octets[fragment_start:end][: _MESSAGE_HEADER_LENGTH - len(self._message_header)]
            self._message_length += length
            self._record_start = end
            has_header = len(self._message_header) == _MESSAGE_HEADER_LENGTH
            body_length = int.from_bytes(self._message_header[1:])
            if has_header and self._message_length >= _MESSAGE_HEADER_LENGTH + body_length:
                return end


def find_alert(tls_context: ssl.SSLContext, client_hello: bytes) -> bytes | None:
    """Return the alert with which TLS refuses a ClientHello, as it goes over the wire; None where it sends none."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(client_hello)
    with suppress(ssl.SSLError):
        tls_context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    answer = outgoing.read()
    return answer if answer[:1] == bytes((_ALERT,)) else None


def describe_failure(error: ssl.SSLError, client_hello: bytes, alert: bytes | None) -> str:
    """Say for the log why a handshake has failed that began with this ClientHello, and which alert was sent."""
    if client_hello[:1] != bytes((_HANDSHAKE,)):
        return f"what it sends is no TLS ({error})"
    if not alert:
        return str(error)
    if alert[-1] == ssl.AlertDescription.ALERT_DESCRIPTION_PROTOCOL_VERSION:
        return f"it speaks no version of TLS that is allowed here, and was told so ({error})"
    return f"it was sent alert {alert[-1]} ({error})"


def ensure_certificate(data: Path, host: str) -> tuple[Path, Path]:
    """Return certificate and key of data folder `data`; made self-signed for `host` (name or address) where missing."""
    certificate, key = data / CERTIFICATE_NAME, data / KEY_NAME
    if not (certificate.exists() and key.exists()):
        _create_certificate(certificate, key, host)
    return certificate, key


def _create_certificate(certificate: Path, key: Path, host: str) -> None:
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    now = datetime.datetime.now(datetime.UTC)
    signed_certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        # A day back: the client's clock may be behind ours.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_build_subject_alt_names(host)), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_atomically(key, pem, 0o600)
    _write_atomically(certificate, signed_certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _build_subject_alt_names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    try:
        names.insert(0, x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        if host != "localhost":
            names.insert(0, x509.DNSName(host))
    return names


def _write_atomically(file: Path, content: bytes, mode: int) -> None:
    """Write by way of a second name, so that a crash leaves no half of a key behind."""
    temporary = file.with_name(file.name + ".new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode, exist_ok=False)
    temporary.write_bytes(content)
    temporary.replace(file)
