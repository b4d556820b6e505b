"""The npm package `smpp`: TLS, and what trips its users."""

from portal.core import db
from portal.services.accounts import session_records
from portal.services.common import credit_amounts
from portal.services.credits import credits
from tests.interop.driven import CODING_BY_THE_PACKAGE, NODE_SMPP, driven
from tests.support import Cast, Server, eventually

ESME_ROK = 0
ESME_RUNSDATACODING = 0x401


def test_binds_over_tls_and_trusts_no_other_certificate(server: Server, conn: db.Connection, cast: Cast) -> None:
    with driven(NODE_SMPP, cast.smpp_acme_1, server.tls_port, "transceiver", server.data / "smpp.crt") as client:
        client.wait("bind", status=ESME_ROK)
        client.wait_for_receipt(client.wait("answer", n=client.send("Ciao"), status=ESME_ROK)["id"])
        assert eventually(lambda: session_records.of_account(conn, cast.smpp_acme_1.id))[0].tls == "TLSv1.3"

    other = server.data / "other.crt"
    other.write_text("")
    with driven(NODE_SMPP, cast.smpp_acme_1, server.tls_port, "transceiver", other) as client:
        client.wait("error", code="DEPTH_ZERO_SELF_SIGNED_CERT")
        assert client.heard("bind") == []


def test_says_ascii_of_gsm_text_unless_told_otherwise(server: Server, conn: db.Connection, cast: Cast) -> None:
    with driven(NODE_SMPP, cast.smpp_acme_1, server.port, "transceiver") as client:
        client.wait("bind", status=ESME_ROK)
        client.wait("answer", n=client.send("Ciao", CODING_BY_THE_PACKAGE), status=ESME_RUNSDATACODING)
        # What has a character beyond GSM 03.38 and Latin-1 goes as UCS-2.
        client.wait("answer", n=client.send("Ciao 😀", CODING_BY_THE_PACKAGE), status=ESME_ROK)
    assert credits.balance(conn, cast.smpp_acme_1.id) == (1000 - 1) * credit_amounts.THOUSANDTHS
