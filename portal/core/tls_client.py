"""TLS towards others' servers: the context of a connection, the files that it is made of, and why a handshake fails."""

import os
import ssl
import stat
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from portal.core.i18n import N_

MINIMUM_VERSIONS: Mapping[str, ssl.TLSVersion] = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
"""The lowest versions that can be asked for. Older ones are forbidden by RFC 8996; they hash by SHA-1 and MD5, which
OpenSSL 3 refuses unless the level of security is 0 for the whole connection, TLS 1.2 included."""

# All authorities of a system are a quarter of it.
_MAX_FILE_OCTETS = 1 << 20
# The alerts (RFC 8446, 6.2) with which a server refuses a certificate of ours, as OpenSSL names them.
_REFUSED_CERTIFICATE_ALERTS = (
    "BAD_CERTIFICATE UNSUPPORTED_CERTIFICATE CERTIFICATE_REVOKED CERTIFICATE_EXPIRED CERTIFICATE_UNKNOWN UNKNOWN_CA"
    " ACCESS_DENIED"
).split()


_CA_FILE, _CERTIFICATE, _KEY = "CA file", "client certificate", "client key"


class UnusableTlsFile(ValueError):
    """A file can't be used. `reason`: why, as the end of a sentence; `is_key`: the private key's."""

    def __init__(self, what: str, path: str, reason: str) -> None:
        super().__init__(f"{what} {path}: {reason}")
        self.reason = reason
        self.is_key = what == _KEY


class TlsFault(StrEnum):
    """Why there is no connection by TLS: what is said of the server, as the end of a sentence. None begins as one that
    comes behind it.
    """

    EXPIRED = N_("its certificate has expired")
    NOT_YET_VALID = N_("its certificate is not valid yet")
    OTHER_NAME = N_("its certificate is of another name")
    UNKNOWN_AUTHORITY = N_("no authority that is believed has signed its certificate")
    UNTRUSTED = N_("its certificate is not trusted")
    CERTIFICATE_DEMANDED = N_("it demands a client certificate")
    CERTIFICATE_REFUSED = N_("it refuses our client certificate")
    CERTIFICATE_MAYBE_DEMANDED = N_("it refuses the handshake, and may demand a client certificate")
    HANDSHAKE_REFUSED = N_("it refuses the handshake")
    OTHER_VERSION = N_("it has no version of TLS that is allowed here")
    NO_TLS = N_("it doesn't speak TLS")
    OTHER = N_("TLS failed")


# By OpenSSL's reasons for not believing a certificate (X509_V_ERR_…).
_FAULTS_BY_VERIFY_CODE = {
    9: TlsFault.NOT_YET_VALID,
    10: TlsFault.EXPIRED,
    **dict.fromkeys((62, 64), TlsFault.OTHER_NAME),
    **dict.fromkeys((2, 18, 19, 20, 21), TlsFault.UNKNOWN_AUTHORITY),
}
# Those that say all there is to say.
_WHOLE_FAULTS = (
    TlsFault.EXPIRED,
    TlsFault.NOT_YET_VALID,
    TlsFault.CERTIFICATE_DEMANDED,
    TlsFault.CERTIFICATE_MAYBE_DEMANDED,
    TlsFault.OTHER_VERSION,
    TlsFault.NO_TLS,
)


def create_client_context(
    *, verify: bool = True, ca_file: str = "", certificate: str = "", key: str = "", minimum: str = "1.2"
) -> ssl.SSLContext:
    """Return the context of a connection. Its files are read now: whoever wants changed ones makes another context.

    Args:
        verify: believe only certificates that an authority has signed, and that are the server's name's.
        ca_file: the authorities to believe (PEM), instead of the system's.
        certificate: what is shown to a server that demands it (PEM, with its chain); "": nothing.
        key: its private key (PEM); "": it is in the same file.
        minimum: the lowest version of TLS, one of MINIMUM_VERSIONS.

    Raises:
        UnusableTlsFile: one of the files can't be read, or isn't what it should be.
    """
    if ca_file:
        _check_pem_file(_CA_FILE, ca_file, b"CERTIFICATE-----", "no certificate in PEM is in it")
    try:
        tls_context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise UnusableTlsFile(_CA_FILE, ca_file, _describe_file_error(error)) from None
    tls_context.minimum_version = MINIMUM_VERSIONS[minimum]
    if not verify:
        tls_context.check_hostname = False
        tls_context.verify_mode = ssl.CERT_NONE
    if certificate:
        _load_client_certificate(tls_context, certificate, key or certificate)
    return tls_context


def check_certificate_file(path: str) -> None:
    """Make sure that a file can be read, and has a certificate in PEM.

    Raises: UnusableTlsFile
    """
    _check_pem_file(_CERTIFICATE, path, b"CERTIFICATE-----", "no certificate in PEM is in it")


def check_key_file(path: str) -> None:
    """Make sure that a file can be read, and has a private key in PEM; one with a passphrase is refused with its
    certificate.

    Raises: UnusableTlsFile
    """
    _check_pem_file(_KEY, path, b"PRIVATE KEY-----", "no private key in PEM is in it")


def _check_pem_file(what: str, path: str, mark: bytes, flaw: str) -> None:
    """Read a file whose path an operator gives: one without an end, or a pipe, would have the server stand still."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise UnusableTlsFile(what, path, "it is no regular file")
        with Path(path).open("rb") as file:
            octets = file.read(_MAX_FILE_OCTETS + 1)
    except OSError as error:
        raise UnusableTlsFile(what, path, _describe_file_error(error)) from None
    if len(octets) > _MAX_FILE_OCTETS:
        raise UnusableTlsFile(what, path, "it is longer than 1 MiB")
    if mark not in octets:
        raise UnusableTlsFile(what, path, flaw)


def _load_client_certificate(tls_context: ssl.SSLContext, certificate: str, key: str) -> None:
    check_certificate_file(certificate)
    check_key_file(key)
    was_asked = False

    def answer_nothing() -> str:
        # OpenSSL would ask on the terminal otherwise, and a server would stand still.
        nonlocal was_asked
        was_asked = True
        return ""

    try:
        tls_context.load_cert_chain(certificate, key, answer_nothing)
    except OSError as error:
        if was_asked:
            reason = "it has a passphrase, which nobody enters here: write it without (openssl pkey -in OLD -out NEW)"
        elif isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            reason = f"it doesn't belong to the certificate in {certificate}"
        else:
            reason = _describe_file_error(error)
        raise UnusableTlsFile(_KEY, key, reason) from None


def describe_open_key(path: str) -> str:
    """Return a sentence where everybody on this machine can read a private key, or change it; else ""."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return ""
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        return ""
    return (
        f"Everybody on this machine can read the private key {path} (mode {stat.S_IMODE(mode):o}): chown it to the user"
        " that the server runs as, and chmod 600; or chgrp, and chmod 640"
    )


def classify_failure(error: ssl.SSLError, *, shows_certificate: bool) -> TlsFault:
    """Return what it means that a handshake failed, or that the connection was ended just after it: by TLS 1.3 a server
    looks at the client's certificate when the client has done its part.

    Args:
        shows_certificate: whether the context has a client certificate.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _FAULTS_BY_VERIFY_CODE.get(error.verify_code, TlsFault.UNTRUSTED)
    reason = error.reason or ""
    if "ALERT_CERTIFICATE_REQUIRED" in reason:
        return TlsFault.CERTIFICATE_DEMANDED
    if any(f"ALERT_{each}" in reason for each in _REFUSED_CERTIFICATE_ALERTS):
        return TlsFault.CERTIFICATE_REFUSED if shows_certificate else TlsFault.CERTIFICATE_DEMANDED
    if "ALERT_HANDSHAKE_FAILURE" in reason:
        # With TLS 1.2 also one that misses a client certificate says so; and one that wants other ciphers.
        return TlsFault.HANDSHAKE_REFUSED if shows_certificate else TlsFault.CERTIFICATE_MAYBE_DEMANDED
    if "PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        return TlsFault.OTHER_VERSION
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "BAD_RECORD_TYPE"):
        return TlsFault.NO_TLS
    return TlsFault.OTHER


def describe_failure(error: ssl.SSLError, *, shows_certificate: bool) -> str:
    """Return why a handshake failed, as the end of a sentence; see `classify_failure`."""
    fault = classify_failure(error, shows_certificate=shows_certificate)
    detail = _describe_reason(error)
    return fault.value if fault in _WHOLE_FAULTS or not detail else f"{fault} ({detail})"


def _describe_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.rstrip(".")
    reason = error.reason or str(error)
    return reason.rpartition("ALERT_")[2].replace("_", " ").lower() if "ALERT_" in reason else reason


def _describe_file_error(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"OpenSSL can't read it ({error.reason or error})"
    return os.strerror(error.errno) if error.errno else str(error)
