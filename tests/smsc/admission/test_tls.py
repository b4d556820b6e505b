"""The certificate that the server makes for itself."""

import ipaddress

import pytest
from cryptography import x509

from portal.smsc.admission.tls import ensure_certificate


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("smpp.acme.example", [x509.DNSName("smpp.acme.example"), x509.DNSName("localhost")]),
        ("192.0.2.1", [x509.IPAddress(ipaddress.ip_address("192.0.2.1")), x509.DNSName("localhost")]),
        ("localhost", [x509.DNSName("localhost")]),
    ],
)
def test_it_is_for_the_name_that_clients_use(tmp_path, host, names):
    certificate, _ = ensure_certificate(tmp_path, host)
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert list(loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == names
    assert ensure_certificate(tmp_path, host)[0].read_bytes() == certificate.read_bytes()
