"""The TLS listener's context and, where no certificate is configured, one made at the first start."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CERTIFICATE_NAME = "smpp.crt"
KEY_NAME = "smpp.key"
_VALIDITY = datetime.timedelta(days=10 * 365)


def create_tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the server's context: TLS 1.3 (RFC 8446) and nothing older.

    Raises ssl.SSLError or OSError when certificate (PEM, with its chain) and key can't be used together.
    """
    tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls_context.minimum_version = ssl.TLSVersion.TLSv1_3
    tls_context.load_cert_chain(certificate, key)
    return tls_context


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
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
        out.write(content)
    temporary.replace(file)
